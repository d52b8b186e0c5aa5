"""Brokers with a bucket behind proxies, writers and readers of their topics, and what is checked after each test."""

import contextlib
import functools
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "cluster")]

import brokers  # noqa: E402
import metadata  # noqa: E402
import offsets  # noqa: E402
from broker import Broker, free_ports  # noqa: E402
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic  # noqa: E402
from proxy import Proxy  # noqa: E402
from stores import BUCKET  # noqa: E402
from waiting import TooLate, wait_for  # noqa: E402

# Waits end when what they wait for happens; this bounds them on a machine that is busy.
SECONDS_MAX = 60
MIB = 1 << 20
# It reads everything.
CHECK_S_MAX = 600
# Uploads, retention and deletion follow at once; the uploader looks every two seconds.
SOON = {
    "ropewalk.tier.upload.max.age.ms": 200,
    "ropewalk.tier.delete.grace.ms": 100,
    "ropewalk.tier.object.bytes": MIB,
    "log.retention.check.interval.ms": 300,
    "group.initial.rebalance.delay.ms": 0,
}
# Of a topic whose records leave the brokers as soon as the bucket has them.
MOVED = {"remote.storage.enable": "true", "local.retention.ms": "1", "segment.bytes": str(MIB)}
# Of one whose records also stay.
COPIED = {"remote.storage.enable": "true", "retention.ms": "-1", "local.retention.ms": "-1",
          "segment.bytes": str(MIB)}
OBJECT = r"\.rwo$"
NAME = re.compile(r"(?P<cluster>[^/]+)/(?P<topic>[0-9a-f-]{36})/(?P<partition>\d{5})/"
                  r"(?P<base>\d{20})-(?P<end>\d{20})-(?P<history>[0-9a-f]{16})-(?P<term>\d{20})-(?P<digest>[0-9a-f]{16})"
                  r"\.(?P<kind>rwo|rwp|rwpp)")


class Member(Broker):
    """A broker of a cluster that tests/brokers.py described, or the only one of a machine."""

    def __init__(self, binary, number, directory, kafka, admin):
        self.binary, self.number, self.directory = str(binary), number, directory
        self.kafka, self.admin = kafka, admin
        self.data, self.log_path = directory / f"{number}.data", directory / f"{number}.log"
        self.config = directory / f"{number}.properties"
        self.process, self.obstacles, self.log_begin = None, None, 0
        self.is_paused = False

    def command(self):
        return [self.binary, "run", "--config", str(self.config)]

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def kill(self):
        super().kill()
        self.is_paused = False

    def metrics(self, name):
        """The values of a metric by the text of its labels."""
        from urllib.request import urlopen
        text = urlopen(f"http://{self.admin}/metrics", timeout=5).read().decode()
        found = re.findall(rf"^{name}(?:\{{(.*?)\}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def conditions(self):
        """The messages of its conditions by kind."""
        return {one["kind"]: one["message"] for one in self.get("/v1/broker")["conditions"]}


class Cluster:
    """Brokers that use one prefix of a bucket, each by a proxy of its own; or a directory, with `url`."""

    def __init__(self, binary, directory, server, count=1, settings=None, *, prefix="tier", proxied=True, url=None,
                 cluster_id=brokers.CLUSTER_ID):
        self.binary, self.server, self.prefix, self.url = binary, server, prefix, url
        self.id = cluster_id
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.settings = {**SOON, **(settings or {})}
        numbers = range(1, count + 1)
        self.proxies = {number: Proxy(server.address, BUCKET) for number in numbers} if proxied else {}
        # One broker has a cluster of its own too: it is alone in it.
        ports = [free_ports(3) for _ in numbers]
        given = [f"{key}={value}" for key, value in {**self.settings, **self.of_bucket()}.items()]
        for number in numbers if url is None else ():
            endpoint = self.proxies[number].endpoint if proxied else f"http://{server.address}"
            given.append(f"{number}:ropewalk.tier.endpoint={endpoint}")
        brokers.write(self.directory, 1, ports, given, cluster_id)
        self.members = [
            Member(binary, number, self.directory, f"127.0.0.1:{kafka}", f"127.0.0.1:{admin}")
            for number, (kafka, admin, _) in zip(numbers, ports)
        ]

    @property
    def bucket_and_prefix(self):
        return f"{BUCKET}/{self.prefix}"

    def of_bucket(self):
        if self.url is not None:
            return {"ropewalk.tier.url": self.url}
        return {
            "ropewalk.tier.url": f"s3://{self.bucket_and_prefix}",
            "ropewalk.tier.access.key.id.file": self.server.keys / "access",
            "ropewalk.tier.secret.access.key.file": self.server.keys / "secret",
        }

    def start(self, wait=True):
        for proxy in self.proxies.values():
            proxy.__enter__()
        for member in self.members:
            member.start(wait=False)
        if wait:
            self.wait_until_whole()
        return self

    def close(self):
        for member in self.members:
            member.kill()
        for proxy in self.proxies.values():
            proxy.__exit__()

    @property
    def bootstrap(self):
        return ",".join(member.kafka for member in self.members)

    @property
    def proxy(self):
        """Of the only broker."""
        (proxy,) = self.proxies.values()
        return proxy

    @property
    def member(self):
        """The only broker."""
        (member,) = self.members
        return member

    def wait_until_whole(self):
        admins = [member.admin for member in self.members]

        def obstacle():
            for member in self.members:
                if not member.is_running():
                    raise AssertionError(f"broker {member.number} ended: {member.log()[-2000:]}")
            return brokers.not_whole(admins)

        wait_for("the cluster is whole", SECONDS_MAX, obstacle, every=0.1)

    def repair(self):
        """All brokers run, and no proxy makes trouble."""
        for proxy in self.proxies.values():
            proxy.clear()
        for member in self.members:
            if member.is_paused:
                member.resume()
            if not member.is_running():
                member.start(wait=False)
        self.wait_until_whole()

    def running(self):
        return [member for member in self.members if member.is_running() and not member.is_paused]

    def leader(self, topic, partition=0, but=None):
        """The member that leads a partition, by what a running broker says; not the one called `but`."""
        found = []

        def obstacle():
            found.clear()
            for member in self.running():
                try:
                    view = metadata.ask(member.kafka, [topic])
                except OSError:
                    continue
                number = view.topics.get(topic, {}).get(partition)
                leader = next((one for one in self.running() if number and one.number == number.leader), None)
                if leader is not None and leader is not but:
                    found.append(leader)
                    return None
            return "no running broker is named as the leader"

        wait_for(f"a leader of {topic}/{partition}", SECONDS_MAX, obstacle)
        return found[0]

    def offset(self, topic, which, partition=0):
        """An offset as the leader says it; see offsets.py."""
        found = []

        def obstacle():
            try:
                found[:] = [offsets.ask(self.leader(topic, partition).kafka, topic, partition, which)]
            except OSError as error:
                return repr(error)

        wait_for(f"the leader of {topic}/{partition} answers", SECONDS_MAX, obstacle)
        return found[0]

    def tier_end(self, topic, partition=0):
        """The offset behind the last one in the bucket, 0 while there is none."""
        return self.offset(topic, offsets.LATEST_TIERED, partition) + 1

    def bucket(self):
        """A client of the bucket that no proxy disturbs, below the prefix of the cluster."""
        return self.server.client(self.prefix)

    @functools.cached_property
    def admin(self):
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create(self, topic, config, partitions=1):
        self.admin.create_topics([NewTopic(topic, partitions, config=config)], request_timeout=30)[topic].result(60)
        for partition in range(partitions):
            self.leader(topic, partition)

    def alter(self, topic, config):
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                   for key, value in config.items()]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(60)

    def delete_records(self, topic, before, partition=0):
        """Raises the log start."""
        of = [TopicPartition(topic, partition, before)]

        def obstacle():
            try:
                for future in self.admin.delete_records(of, request_timeout=10).values():
                    future.result(20)
            except KafkaException as error:
                return str(error)

        wait_for(f"the log start of {topic} is {before}", SECONDS_MAX, obstacle)

    def wait_until_uploaded(self, topic, partitions=1, seconds_max=SECONDS_MAX):
        def obstacle():
            for partition in range(partitions):
                end, tiered = self.offset(topic, offsets.LATEST, partition), self.tier_end(topic, partition)
                if tiered < end:
                    return f"{topic}/{partition}: {tiered} of {end} are in the bucket. {self.said()}"

        return wait_for(f"{topic} is uploaded", seconds_max, obstacle, every=0.1)

    def wait_until_moved(self, topic, partitions=1, seconds_max=SECONDS_MAX):
        """Uploaded, and no record is on the brokers."""
        self.wait_until_uploaded(topic, partitions, seconds_max)

        def obstacle():
            for partition in range(partitions):
                end, local = (self.offset(topic, which, partition) for which in (offsets.LATEST, offsets.EARLIEST_LOCAL))
                if local < end:
                    return f"{topic}/{partition} is local from {local} of {end} on"

        return wait_for(f"{topic} left the brokers", seconds_max, obstacle, every=0.1)

    def said(self):
        """What the brokers say of their buckets."""
        found = []
        for member in self.running():
            with contextlib.suppress(OSError):
                found += [f"broker {member.number}: {text}" for kind, text in member.conditions().items()
                          if kind == "tier_failing"]
        return "; ".join(found)


class Writer:
    """An idempotent producer of numbered records, which knows what was acknowledged at which offset.

    A record is sent again until it is acknowledged, so every one is, also where brokers are killed.
    """

    def __init__(self, cluster, topic, partition=0, size_bytes=1000):
        self.cluster, self.topic, self.partition, self.size_bytes = cluster, topic, partition, size_bytes
        self.count, self.acked = 0, {}
        self.failures = []
        self.producer = Producer({
            "bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
            "message.timeout.ms": SECONDS_MAX * 1000, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20,
            "batch.size": 64 << 10, "topic.metadata.refresh.interval.ms": 1000, "log_level": 0,
        })

    def send(self, count):
        """Hands so many records to the client."""
        for _ in range(count):
            value = f"{self.topic}:{self.count}:".encode().ljust(self.size_bytes, b".")
            self.count += 1
            while True:
                try:
                    self.producer.produce(self.topic, value, partition=self.partition, on_delivery=self.answered)
                    break
                except BufferError:
                    self.producer.poll(0.05)
            self.producer.poll(0)

    def answered(self, error, message):
        if error is not None:
            self.failures.append(str(error))
        elif message.offset() in self.acked:
            self.failures.append(f"offset {message.offset()} was acknowledged twice")
        else:
            self.acked[message.offset()] = message.value()

    def wait(self):
        """Waits until everything that was sent is acknowledged."""
        left = self.producer.flush(SECONDS_MAX)
        assert left == 0 and not self.failures, f"{left} records without an answer, {self.failures[:3]}"

    def write(self, count):
        self.send(count)
        self.wait()


def read(cluster, topic, partition=0, begin=None, end=None, seconds_max=SECONDS_MAX):
    """All records from `begin`, the log start by default, until before `end`: (offset, value) in the order in which they
    arrive."""
    begin = cluster.offset(topic, offsets.EARLIEST, partition) if begin is None else begin
    end = cluster.offset(topic, offsets.LATEST, partition) if end is None else end
    consumer = Consumer({
        "bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False, "log_level": 0,
        "auto.offset.reset": "error", "reconnect.backoff.max.ms": 200, "fetch.error.backoff.ms": 50,
    })
    found, deadline = [], time.monotonic() + seconds_max
    try:
        consumer.assign([TopicPartition(topic, partition, begin)])
        while (found[-1][0] + 1 if found else begin) < end:
            assert time.monotonic() < deadline, (
                f"{len(found)} records of {topic} from {begin} on, until {end}, in {seconds_max} s. {cluster.said()}")
            for message in consumer.consume(1000, 0.5):
                assert not message.error(), f"{topic} from {begin} on: {message.error()}"
                found.append((message.offset(), message.value()))
    finally:
        consumer.close()
    return found


def check_records(writer, begin=0):
    """Every acknowledged record from `begin` on is read exactly once, at its offset and in order, and nothing else."""
    assert len(writer.acked) == writer.count, f"{len(writer.acked)} of {writer.count} records have an offset"
    log_start = writer.cluster.offset(writer.topic, offsets.EARLIEST, writer.partition)
    assert log_start == begin, f"the log starts at {log_start}, not at {begin}"
    found = read(writer.cluster, writer.topic, writer.partition, begin)
    at = [offset for offset, _ in found]
    assert at == list(range(begin, len(writer.acked))), f"offsets have a gap or a repeat: {first_break(at, begin)}"
    values = [value for _, value in found]
    expected = [writer.acked[offset] for offset in at]
    assert values == expected, "some records have other values than those that were acknowledged"
    assert len(set(values)) == len(values), "some record is there twice"
    return len(found)


def first_break(at, begin):
    expected = begin
    for offset in at:
        if offset != expected:
            return f"{offset} instead of {expected}"
        expected += 1
    return f"it ends at {expected}"


class Scrubbed:
    """What every object of a bucket is, read by code of its own beside that of the program."""

    def __init__(self, cluster):
        self.objects, self.other, self.damaged = {}, [], []
        bucket = cluster.bucket()
        for listed in bucket.list():
            match = NAME.fullmatch(listed.name)
            if match is None:
                self.other.append(listed.name)
                continue
            if hashlib.sha256(bucket.get(listed.name)).hexdigest()[:16] != match["digest"]:
                self.damaged.append(listed.name)
            if match["kind"] == "rwo":
                key = (match["topic"], int(match["partition"]))
                self.objects.setdefault(key, []).append((int(match["base"]), int(match["end"]), int(match["term"])))
        bucket.close()

    @staticmethod
    def chain(ranges, begin, end):
        """Objects that cover everything from `begin` until before `end`, each of which begins where the one before it
        ends; nothing if there are none. Of two equal ranges it takes the later term."""
        paths = {}
        for base, behind, term in sorted(ranges):
            if base <= begin < behind:
                path = [(base, behind, term)]
            elif base in paths:
                path = [*paths[base], (base, behind, term)]
            else:
                continue
            paths[behind] = max(paths.get(behind, []), path)
        return paths.get(end, [])


def check_bucket(cluster, topic, partition=0, topic_id=None):
    """The bucket has what the brokers say: every object is what its name says, a chain of objects covers the topic from
    the log start to the end of the tier, and the program's own check finds nothing."""
    scrubbed = Scrubbed(cluster)
    assert not scrubbed.damaged, f"damaged objects: {scrubbed.damaged}"
    begin, end = cluster.offset(topic, offsets.EARLIEST, partition), cluster.tier_end(topic, partition)
    of_topic = [ranges for (id_, index), ranges in scrubbed.objects.items()
                if index == partition and topic_id in (None, id_)]
    assert begin >= end or any(scrubbed.chain(ranges, begin, end) for ranges in of_topic), (
        f"no objects cover {begin} to {end} of {topic}: {of_topic}")
    check_by_program(cluster)
    return scrubbed


def check_by_program(cluster):
    """`ropewalk-broker tier check` of the cluster's prefix."""
    command = [cluster.binary, "--log", "warn", "tier", "check", "--json", "--config", cluster.members[0].config]
    # Past the proxies; and an object of a deposed leader is young for the time of a test.
    sets = {"ropewalk.tier.delete.grace.ms": 3_600_000}
    if cluster.url is None:
        sets["ropewalk.tier.endpoint"] = f"http://{cluster.server.address}"
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S_MAX)
    assert ended.returncode == 0, f"`tier check` ended with {ended.returncode}: {ended.stdout} {ended.stderr}"
    report = json.loads(ended.stdout)["report"]
    assert not report["problems"] and report["objects"] > 0, report


__all__ = ["COPIED", "MIB", "MOVED", "OBJECT", "SECONDS_MAX", "Cluster", "TooLate", "Writer", "check_bucket",
           "check_by_program", "check_records", "offsets", "read", "wait_for"]
