"""The servers under test: how to start each one, find its process, and stop it.

Every server gets an empty directory on the disk under test, free ports and a memory cgroup, and is ended by its own pid.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from broker import free_ports

# Deleted segments leave the disk at once and retention is applied often, so that a long run does not fill the disk.
RETENTION = "log.retention.check.interval.ms=5000"
KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.delete.delay.ms=1000
{retention}
"""
# What bin/kafka-run-class.sh and bin/kafka-server-start.sh of Kafka 4 give to the JVM.
KAFKA_JVM = [
    "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
    "-Xlog:gc*:file=kafkaServer-gc.log:time,tags:filecount=10,filesize=100M",
    "-Dcom.sun.management.jmxremote=true", "-Dcom.sun.management.jmxremote.authenticate=false",
    "-Dcom.sun.management.jmxremote.ssl=false",
]  # fmt: skip
KAFKA_HEAP_MIB = 1024


def java(main, *options):
    return ["java", *options, "-cp", os.environ["KAFKA_LIBS"] + "/*", main]


def kafka_command(limit_bytes):
    """Starts one broker of Apache Kafka. Its heap is 1 GiB as shipped; half of the limit on its memory where that is less."""
    mib = min(KAFKA_HEAP_MIB, limit_bytes // 2**21) if limit_bytes else KAFKA_HEAP_MIB
    return [*java("kafka.Kafka", *KAFKA_JVM, f"-Xms{mib}M", f"-Xmx{mib}M", "-Dlog4j2.level=WARN"), "server.properties"]


class Server:
    """One server in a memory cgroup; `speaks` says which load clients can drive it.

    Use it as a context: leaving it ends the process and removes its directory.
    """

    speaks = "kafka"
    # Whether an acknowledged record survives a power cut.
    is_durable = True

    def __init__(self, name, directory, group):
        self.name, self.directory, self.group = name, Path(directory, name), group
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def __enter__(self):
        """Prepares an empty directory; `start` is apart, so that its clock covers the process alone."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.prepare()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self):
        """Starts the process without waiting until it answers; when it was started, in seconds since 1970."""
        environment = {**os.environ, **self.environment()}
        with open(self.directory / "server.log", "w") as log:
            started = time.time()
            command = self.group.wrap(self.command())
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.directory)
        return started

    def prepare(self):
        pass

    def environment(self):
        return {}

    def wait_until_it_listens(self, seconds_max=60):
        deadline = time.monotonic() + seconds_max
        while True:
            if self.obituary():
                raise RuntimeError(self.obituary())
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not listen after {seconds_max} s") from None
                time.sleep(0.02)

    def obituary(self):
        """Why the process is not running; none while it is."""
        if self.process.poll() is None:
            return None
        kills = self.group.kills()
        cause = f", {kills} processes of its cgroup were killed for want of memory" if kills else ""
        log = (self.directory / "server.log").read_text(errors="replace").strip()
        return f"{self.name} ended with code {self.process.returncode}{cause}: {log[-500:]}"

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def pid(self):
        return self.process.pid

    def peak_mib(self):
        return self.group.peak_mib(self.pid())

    def anonymous_mib(self):
        return self.group.anonymous_mib(self.pid())


class Ropewalk(Server):
    def command(self):
        binary = os.environ["ROPEWALK_BROKER"]
        admin = f"127.0.0.1:{free_ports(1)[0]}"
        data = str(self.directory / "data")
        settings = ["--set", "group.initial.rebalance.delay.ms=0", "--set", RETENTION]
        return [binary, "dev", "--data", data, "--kafka", self.address, "--admin", admin, *settings]


class Kafka(Server):
    is_durable = False
    extra = ""

    def prepare(self):
        places = {"controller": free_ports(1)[0], "port": self.port, "data": self.directory / "data"}
        text = KAFKA_PROPERTIES.format(**places, retention=RETENTION) + self.extra
        (self.directory / "server.properties").write_text(text)
        tool = java("kafka.tools.StorageTool")
        cluster = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
        subprocess.run([*tool, "format", "-t", cluster, "-c", "server.properties"], cwd=self.directory, capture_output=True, check=True)

    def command(self):
        return kafka_command(self.group.limit_bytes)


class KafkaFsync(Kafka):
    is_durable = True
    extra = "log.flush.interval.messages=1\n"


class Nats(Server):
    speaks = "nats"
    is_durable = False
    sync = "2m"  # The default: fsync every two minutes.

    def prepare(self):
        (self.directory / "nats.conf").write_text(
            f'listen: "{self.address}"\nmax_payload: 8MB\n'
            f'jetstream {{ store_dir: "{self.directory}/data", sync_interval: {self.sync} }}\n'
        )

    def command(self):
        return [os.environ["NATS_SERVER"], "-c", "nats.conf"]


class NatsFsync(Nats):
    is_durable = True
    sync = "always"


class RabbitMq(Server):
    speaks = "amqp"

    def prepare(self):
        self.names_port, self.between_port = free_ports(2)
        limit = self.group.limit_bytes
        watermark = f"absolute = {limit * 4 // 10}" if limit else "relative = 0.4"
        (self.directory / "rabbitmq.conf").write_text(f"loopback_users = none\nvm_memory_high_watermark.{watermark}\n")
        (self.directory / "enabled_plugins").write_text("[].\n")

    def environment(self):
        return {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self.names_port),
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.between_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
        }

    def command(self):
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def pid(self):
        # The command is a shell script that waits for Erlang's process.
        return int((self.directory / "pid").read_text())

    def stop(self):
        names = {**os.environ, "ERL_EPMD_PORT": str(self.names_port)}
        super().stop()
        subprocess.run(["epmd", "-kill"], env=names, capture_output=True, check=False)


SERVERS = {
    "ropewalk": Ropewalk,
    "kafka": Kafka,
    "kafka-fsync": KafkaFsync,
    "nats": Nats,
    "nats-fsync": NatsFsync,
    "rabbitmq": RabbitMq,
}
