"""Clusters of broker processes, each at a loopback address of its own: Ropewalk, and Apache Kafka to compare.

They run in a network namespace of the test, so their ports are fixed. A process is ended by its own pid.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import certificates
import clock
import metadata
from broker import Broker
from brokers import peer_settings, properties
from disk import Disk
from waiting import wait_for

KAFKA_PORT, CONTROLLER_PORT, ADMIN_PORT, PEER_PORT = 9092, 9093, 9644, 9700
CLUSTER_ID = "cluster-test"
# As many replicas as a partition has at most.
REPLICAS_MAX = 3
# The JVM starts in seconds, on two busy cores in many.
START_S_MAX = 60
# Until all brokers are there, every replica has caught up, and all brokers say so.
WHOLE_S_MAX = 120
# How many different warnings of a broker are shown after a failure.
WARNINGS_MAX = 20


def host_of(number):
    return f"127.0.1.{number}"


class Node(Broker):
    """One process of a cluster. `is_wanted` says whether it should run: one that ended by itself is an error."""

    def save_state(self):
        return ()

    def __init__(self, number, directory):
        self.number, self.host = number, host_of(number)
        self.kafka, self.admin = (f"{self.host}:{port}" for port in (KAFKA_PORT, ADMIN_PORT))
        self.directory, self.data = directory, directory / f"data-{number}"
        self.log_path = directory / f"broker-{number}.log"
        self.config = directory / f"broker-{number}.properties"
        self.process, self.obstacles, self.log_begin = None, None, 0
        self.is_wanted = self.is_paused = False

    def start(self, wait=True, seconds_max=START_S_MAX):
        self.is_wanted = True
        super().start(wait=False)
        if wait:
            wait_for(f"broker {self.number} listens after its start", seconds_max, self.cannot_be_asked)
        return self

    def cannot_be_asked(self):
        if not self.is_running():
            raise AssertionError(self.obituary())
        try:
            metadata.ask(self.kafka, [])
        except OSError as error:
            return repr(error)

    def obituary(self):
        return f"broker {self.number} ended by itself with {self.process.poll()}; its log ends: {self.log()[-3000:]}"

    def kill(self):
        self.is_wanted = self.is_paused = False
        super().kill()

    def stop(self, seconds_max=60):
        """Stops it with a signal and waits for its end."""
        self.is_wanted = False
        code = super().stop(seconds_max)
        if code not in self.exit_codes:
            raise AssertionError(f"broker {self.number} ended with {code} on SIGTERM: {self.log()[-3000:]}")

    def pause(self):
        self.is_paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def close(self):
        """Leaves no process, mount or group behind."""
        self.kill()

    def lacks(self, _brokers):
        """What shards beside those of a topic lack until all their replicas are in sync, with so many brokers."""
        return None


class RopewalkNode(Node):
    exit_codes = (0,)

    def __init__(self, binary, number, directory):
        super().__init__(number, directory)
        self.binary, self.certificates = str(binary), directory / f"certificates-{number}"
        # The name of the scratch directory is the only one on the machine.
        self.disk = Disk(directory / f"disk-{number}", f"{directory.parent.name}-{number}")
        self.data = self.disk.path / "data"
        self.token = (directory / "token").read_text().strip()

    def configure(self, seeds):
        """The settings of a broker that joins the seeds, or without any is the first of its cluster."""
        self.disk.mount()
        certificates.make_certificate(self.directory, self.number, CLUSTER_ID)
        self.certificates.mkdir()
        self.take_certificates(self.directory)
        settings = {
            "log.dirs": self.data,
            "listeners": f"PLAINTEXT://{self.kafka}",
            "ropewalk.admin.listener": self.admin,
            "admin.token.file": self.directory / "token",
            "group.initial.rebalance.delay.ms": 0,
            **peer_settings(self.number, f"{self.host}:{PEER_PORT}", self.certificates,
                            [seed.admin for seed in seeds], CLUSTER_ID),
        }
        self.config.write_text(properties(settings))

    def command(self):
        return [self.binary, "run", "--config", str(self.config)]

    def slow_disk(self):
        self.disk.slow(self.process.pid)

    def set_clock_forward(self, seconds):
        clock.set_forward(self.process, seconds)

    def close(self):
        super().close()
        self.disk.unmount()

    def lacks(self, brokers):
        try:
            missing = lacking(self.get("/v1/cluster"), min(REPLICAS_MAX, brokers))
        except OSError as error:
            missing = f"it does not answer: {error!r}"
        return missing and f"broker {self.number}: {missing}"

    def save_state(self):
        """Writes what the broker says of its cluster and of itself to files; their paths."""
        for path, name in (("v1/cluster", "cluster.json"), ("metrics", "metrics")):
            file = self.directory / f"broker-{self.number}.{name}"
            try:
                with urllib.request.urlopen(f"http://{self.admin}/{path}", timeout=5) as answer:
                    file.write_bytes(answer.read())
            except OSError as error:
                file.write_text(f"no answer: {error!r}\n")
            yield file

    def take_certificates(self, source):
        """Puts the files of another directory in the place of this broker's, each at once."""
        for name in ("ca.crt", f"broker-{self.number}.crt", f"broker-{self.number}.key"):
            shutil.copy(source / name, self.certificates / "new")
            os.replace(self.certificates / "new", self.certificates / name)


class KafkaNode(Node):
    # The JVM's exit code after SIGTERM.
    exit_codes = (0, 143)

    def __init__(self, libs, number, directory):
        super().__init__(number, directory)
        self.libs = libs

    def configure(self, numbers):
        voters = ",".join(f"{number}@{host_of(number)}:{CONTROLLER_PORT}" for number in numbers)
        listeners = f"PLAINTEXT://{self.kafka},CONTROLLER://{self.host}:{CONTROLLER_PORT}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.data,
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3,
            "group.initial.rebalance.delay.ms": 0,
        }
        self.config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def format(self, cluster_id):
        tool = self.java("kafka.tools.StorageTool")
        subprocess.run([*tool, "format", "-t", cluster_id, "-c", self.config], capture_output=True, check=True,
                       cwd=self.directory, timeout=START_S_MAX)

    def java(self, main, *options):
        return ["java", *options, "-cp", f"{self.libs}/*", main]

    def command(self):
        return [*self.java("kafka.Kafka", "-Xms512M", "-Xmx512M", "-Dlog4j2.level=WARN"), str(self.config)]


class Cluster:
    """The nodes that were started. Leaving the context kills what still runs."""

    def __init__(self, name, nodes):
        self.name, self.all = name, nodes
        self.nodes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.all:
            node.close()

    @property
    def bootstrap(self):
        return ",".join(node.kafka for node in self.nodes)

    def node(self, number):
        return next(node for node in self.nodes if node.number == number)

    def join(self, number):
        """A new broker with this number joins, and is added."""
        node = RopewalkNode(self.nodes[0].binary, number, self.nodes[0].directory)
        self.all.append(node)
        node.configure(self.nodes)
        self.add(node)
        return node

    def next_number(self):
        return max(node.number for node in self.all) + 1

    def remove(self, node):
        """The broker is not of the cluster any more; it has ended."""
        self.nodes.remove(node)
        node.close()

    def others(self, node):
        return [other for other in self.nodes if other is not node]

    def add(self, *nodes):
        """Starts the nodes together and waits until they answer."""
        for node in nodes:
            node.start(wait=False)
        self.nodes += nodes
        for node in nodes:
            wait_for(f"broker {node.number} of {self.name} answers", WHOLE_S_MAX, node.cannot_be_asked)

    def check_running(self):
        for node in self.nodes:
            if node.is_wanted and not node.is_running():
                raise AssertionError(node.obituary())

    def view(self, topic=None):
        """What one broker says that runs."""
        answers = []
        for node in self.nodes:
            if node.is_running() and not node.is_paused:
                try:
                    return metadata.ask(node.kafka, [topic] if topic else [])
                except OSError as error:
                    answers.append(f"broker {node.number}: {error!r}")
        raise AssertionError(f"no broker of {self.name} answers: {answers}")

    def wait_until_whole(self, topic=None, seconds_max=WHOLE_S_MAX):
        """Waits until every broker says the same of the topic: all brokers are there, every replica is in sync.
        The seconds that took."""
        numbers = {node.number for node in self.nodes}

        def obstacle():
            self.check_running()
            missing = not_whole(self.views(topic), numbers, topic)
            return missing or next(filter(None, (node.lacks(len(numbers)) for node in self.nodes)), None)

        return wait_for(f"all of {self.name} is there and in sync", seconds_max, obstacle, every=0.1)

    def views(self, topic):
        views = {}
        for node in self.nodes:
            try:
                views[node.number] = metadata.ask(node.kafka, [topic] if topic else [])
            except OSError as error:
                views[node.number] = repr(error)
        return views

    def log_warnings(self):
        """The end of each node's warnings and errors."""
        for node in self.all:
            if node.log_path.exists():
                worse = warnings(node.log_path.read_text(errors="replace").splitlines())
                yield f"broker {node.number}: {len(worse)} different warnings and errors", worse[-WARNINGS_MAX:]


def warnings(lines):
    """Lines that are more than information; of those that differ only in numbers the last, and how many they are."""
    found = {}
    for line in lines:
        if " WARN " in line or " ERROR " in line or "panicked" in line:
            kind = re.sub(r"\d+", "", line)
            count, _ = found.pop(kind, (0, ""))
            found[kind] = (count + 1, line)
    return [line if count == 1 else f"{line}   ({count} times)" for count, line in found.values()]


def not_whole(views, numbers, topic=None):
    """What is missing until all brokers agree that all is there; nothing if nothing is."""
    leaders = {}
    for number, view in views.items():
        if isinstance(view, str):
            return f"broker {number} does not answer: {view}"
        if set(view.brokers) != numbers:
            return f"broker {number} knows the brokers {sorted(view.brokers)}"
        if view.controller not in numbers:
            return f"broker {number} knows no controller"
        if topic is None:
            continue
        if topic not in view.topics:
            return f"broker {number} does not know {topic}, error {view.errors.get(topic)}"
        for at, partition in sorted(view.topics[topic].items()):
            replicas = set(partition.replicas)
            if len(replicas) != min(REPLICAS_MAX, len(numbers)) or not replicas <= numbers:
                return f"broker {number} says that {topic}/{at} is on {sorted(replicas)}"
            if set(partition.in_sync) != replicas:
                return f"broker {number} says that {topic}/{at} is in sync on {sorted(partition.in_sync)}"
            if partition.leader not in numbers:
                return f"broker {number} knows no leader of {topic}/{at}"
            if leaders.setdefault(at, partition.leader) != partition.leader:
                return f"brokers say that {topic}/{at} is led by {leaders[at]} and by {partition.leader}"
    return None


def lacking(report, replicas):
    """The first shard in an answer of /v1/cluster that has not so many voters in sync and no other replica; nothing if
    there is none. Only the catalog, shard 0, has more replicas, which do not vote."""
    for shard in report["shards"]:
        counted = [one for one in shard["replicas"] if shard["shard"] or one["role"] != "Learner"]
        in_sync = [one["broker"] for one in counted if one["votes"] and one["caughtUp"]]
        if len(in_sync) != replicas or len(counted) != replicas:
            return f"shard {shard['shard']} has voters in sync on {in_sync}, of {len(counted)} replicas"
    return None


def ropewalk(binary, directory):
    """A cluster of three brokers, none of them started."""
    directory.mkdir()
    (directory / "token").write_text("a token of the test\n")
    certificates.make_authority(directory)
    nodes = [RopewalkNode(binary, number, directory) for number in (1, 2, 3)]
    for node in nodes:
        node.configure([other for other in nodes if other is not node] if node.number > 1 else [])
    return Cluster("ropewalk", nodes)


def kafka(libs, directory):
    """Apache Kafka with three brokers that are controllers too, none of them started."""
    directory.mkdir()
    nodes = [KafkaNode(libs, number, directory) for number in (1, 2, 3)]
    tool = nodes[0].java("kafka.tools.StorageTool")
    cluster_id = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True,
                                timeout=START_S_MAX).stdout.split()[-1]
    for node in nodes:
        node.configure([one.number for one in nodes])
        node.format(cluster_id)
    return Cluster("kafka", nodes)


def show_warnings(cluster):
    for title, lines in cluster.log_warnings():
        print(title, *(f"    {line[:400]}" for line in lines), sep="\n", file=sys.stderr)
