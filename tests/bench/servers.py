"""The servers under test: how to start each one, find its process, and stop it.

Every server gets an empty directory on the disk under test and free ports, and is stopped by its own pid.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
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
"""


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Server:
    """One running server; `speaks` lists the load clients that it supports."""

    speaks = "kafka"

    def __init__(self, name, directory):
        self.name, self.directory = name, Path(directory, name)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        """Starts it on an empty directory, without waiting until it answers."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.prepare()
        self.log = open(self.directory / "server.log", "w")
        self.process = subprocess.Popen(
            self.command(), stdout=self.log, stderr=self.log, env={**os.environ, **self.environment()}, cwd=self.directory
        )

    def prepare(self):
        pass

    def environment(self):
        return {}

    def wait_until_it_listens(self, seconds_max=60):
        deadline = time.monotonic() + seconds_max
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {(self.directory / 'server.log').read_text()[-800:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not listen after {seconds_max} s") from None
                time.sleep(0.02)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pid(self):
        return self.process.pid

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_mib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid()}/status").read_text())[1]) / 1024


class Ropewalk(Server):
    def command(self):
        binary = os.environ["ROPEWALK_BROKER"]
        admin = f"127.0.0.1:{free_port()}"
        data = str(self.directory / "data")
        settings = ["--set", "group.initial.rebalance.delay.ms=0"]
        return [binary, "dev", "--data", data, "--kafka", self.address, "--admin", admin, *settings]


class Kafka(Server):
    extra = ""

    def prepare(self):
        text = KAFKA_PROPERTIES.format(controller=free_port(), port=self.port, data=self.directory / "data") + self.extra
        (self.directory / "server.properties").write_text(text)
        tool = self.java("kafka.tools.StorageTool")
        cluster = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
        subprocess.run([*tool, "format", "-t", cluster, "-c", "server.properties"], cwd=self.directory, capture_output=True, check=True)

    def command(self):
        return [*self.java("kafka.Kafka", "-Xms1G", "-Xmx1G", "-Dlog4j2.level=WARN"), "server.properties"]

    @staticmethod
    def java(main, *options):
        return ["java", *options, "-cp", os.environ["KAFKA_LIBS"] + "/*", main]


class KafkaFsync(Kafka):
    extra = "log.flush.interval.messages=1\n"


class Nats(Server):
    speaks = "nats"
    sync = "2m"  # The default: fsync every two minutes.

    def prepare(self):
        (self.directory / "nats.conf").write_text(
            f'listen: "{self.address}"\nmax_payload: 8MB\n'
            f'jetstream {{ store_dir: "{self.directory}/data", sync_interval: {self.sync} }}\n'
        )

    def command(self):
        return [os.environ["NATS_SERVER"], "-c", "nats.conf"]


class NatsFsync(Nats):
    sync = "always"


class RabbitMq(Server):
    speaks = "amqp"

    def prepare(self):
        self.names_port, self.between_port = free_port(), free_port()
        (self.directory / "rabbitmq.conf").write_text("loopback_users = none\nvm_memory_high_watermark.relative = 0.4\n")
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
