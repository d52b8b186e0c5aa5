"""A broker is killed at each named point between the upload of records and their deletion, and restarts, or another
broker takes over, or it is stopped there and continues after another one did its work.

All points of a round are reached at the same time, each by a topic of its own, and one blow ends the round: in
`restart` the only broker is killed and starts again, in `takeover` the leader of three is killed, and in `both` it gets
SIGSTOP, and SIGCONT after the next leader uploaded or deleted the same. Nothing is built into the broker for that: the
proxy holds requests to the bucket, strace delays the deletion of files, and stopped followers keep a command from being
committed.
"""

import base64
import random
import subprocess
import time
import uuid

import brokers
import metadata
import pytest
from conftest import BINARY, IS_LONG, end, make
from harness import (
    COPIED, MIB, MOVED, OBJECT, SECONDS_MAX, Cluster, Writer, check_bucket, check_by_program, check_records, offsets,
    wait_for,
)
from proxy import DELETE, HEAD, PUT, Hold, Pass
from stores import SERVERS

RESTART, TAKEOVER, BOTH = "restart", "takeover", "both"
# Each with what the leader has done, and what it has not.
BEFORE_PUT = "before_put"  # It sends the object, and the bucket does not have it.
PUT_UNANSWERED = "put_unanswered"  # The bucket has the object, and the leader no answer.
VERIFIED = "verified"  # It verified the object, and AddObject is not committed.
ADDED = "added"  # AddObject is applied, and no local record is deleted.
LOCAL_DELETE = "local_delete"  # Some segments are deleted, and others not.
BEFORE_DELETE = "before_delete"  # Objects are dropped from the manifest, and the bucket has all of them.
HALF_DELETED = "half_deleted"  # The bucket has some of the dropped ones.
ALL_DELETED = "all_deleted"  # The bucket has none of them, and ObjectsDeleted is not proposed.
UPLOADS = (BEFORE_PUT, PUT_UNANSWERED, VERIFIED)
DELETIONS = (BEFORE_DELETE, HALF_DELETED, ALL_DELETED)
POINTS = (*UPLOADS, ADDED, LOCAL_DELETE, *DELETIONS)
MODES = (RESTART, TAKEOVER, BOTH)

WAITING = {"remote.log.copy.disable": "true"}
NOT_WAITING = {"remote.log.copy.disable": "false"}
# Partitions of a topic of three brokers: each of them leads some.
PARTITIONS = 24
# The pass after the one that drops objects deletes them, all in the same one.
SETTINGS = {"log.retention.check.interval.ms": 1000, "ropewalk.tier.delete.grace.ms": 1500}
UNLINK_DELAYED_US = 120_000_000
RECORDS = 1500
# Enough for several objects and segments.
RECORDS_OF_SEVERAL = 5500
DROPPED = 3
# How often a round is prepared, if leaders are moved meanwhile.
PREPARED_MAX = 3


class Case:
    """One point, reached by one partition."""

    def __init__(self, round_, point):
        self.point, self.topic = point, f"{round_.label}-{point.replace('_', '-')}"
        self.cluster, self.hold = round_.cluster, None
        self.begin, self.failure, self.partition = 0, None, 0
        self.writer = self.id = self.folder = None

    def create(self, partitions):
        config = COPIED if self.point in (ADDED, LOCAL_DELETE) else MOVED
        self.cluster.create(self.topic, {**config, **(WAITING if self.point in UPLOADS else {})}, partitions)

    def take(self, partition):
        self.partition = partition
        described = self.cluster.admin.describe_topics(_names([self.topic]))[self.topic].result(30)
        self.id = topic_id(described)
        self.folder = f"/{self.id}/{self.partition:05}/"
        self.writer = Writer(self.cluster, self.topic, self.partition)

    def objects(self):
        """The ranges of its objects in the bucket, in order."""
        bucket = self.cluster.bucket()
        names = [name for name in bucket.names(f"{self.cluster.id}/{self.id}/{self.partition:05}/") if ".rwo" in name]
        bucket.close()
        return [tuple(map(int, name.rpartition("/")[2].split("-")[:2])) for name in names]

    def wait_until_uploaded(self):
        def obstacle():
            end = self.cluster.offset(self.topic, offsets.LATEST, self.partition)
            tiered = self.cluster.tier_end(self.topic, self.partition)
            return f"{tiered} of {end} are in the bucket. {self.cluster.said()}" if tiered < end else None

        wait_for(f"{self.topic} is uploaded", SECONDS_MAX, obstacle, every=0.1)

    def wait_until_moved(self):
        def obstacle():
            end, local = (self.cluster.offset(self.topic, which, self.partition)
                          for which in (offsets.LATEST, offsets.EARLIEST_LOCAL))
            return f"it is local from {local} of {end} on" if local < end else None

        wait_for(f"{self.topic} left the brokers", SECONDS_MAX, obstacle, every=0.1)

    def wait_until_deleted(self):
        def obstacle():
            left = [of for of in self.objects() if of[1] <= self.begin]
            return f"{left} end before the log start {self.begin}. {self.cluster.said()}" if left else None

        wait_for(f"dropped objects of {self.topic} are deleted", SECONDS_MAX, obstacle, every=0.2)


def _names(names):
    from confluent_kafka import TopicCollection
    return TopicCollection(names)


def topic_id(described):
    """The id as objects are named by it."""
    text = str(described.topic_id)
    return str(uuid.UUID(bytes=base64.b64decode(text.replace("-", "+").replace("_", "/") + "==")))


class Moved(Exception):
    """The leadership was moved before the blow, so that there is nothing to be seen yet."""


class Round:
    """Brings a broker to all points, ends it, and waits until the work is done."""

    def __init__(self, cluster, mode, points, label):
        self.cluster, self.mode, self.label = cluster, mode, label
        self.cases = {point: Case(self, point) for point in points}
        self.victim = self.strace = self.files = None

    def of(self, *points):
        return [case for case in self.cases.values() if case.point in points]

    def each(self, do, cases=None):
        """Calls `do` for every case that has not failed. The test of a case reports its failure."""
        for case in cases if cases is not None else self.cases.values():
            if case.failure is None:
                try:
                    do(case)
                except Exception as error:  # noqa: BLE001
                    case.failure = error

    def run(self):
        try:
            self.prepare()
            self.reach()
        except Exception as error:
            self.end_strace()
            self.cluster.repair()
            if self.has_moved():
                raise Moved from error
            raise
        try:
            self.strike()
            self.recover()
        finally:
            self.end_strace()
            self.cluster.repair()
        self.each(lambda case: case.writer.write(500))
        self.each(lambda case: self.cluster.alter(case.topic, {"local.retention.ms": "1"}), self.of(ADDED, LOCAL_DELETE))
        self.each(Case.wait_until_uploaded)
        self.each(Case.wait_until_moved)
        return self

    def has_moved(self):
        """Whether another broker leads a partition of the round: leaders are spread by load."""
        return self.victim is not None and any(
            self.cluster.leader(case.topic, case.partition) is not self.victim for case in self.cases.values())

    def prepare(self):
        """Topics, and records of those whose point is behind the upload."""
        count = len(self.cluster.members)
        if count > 1:
            admins = [member.admin for member in self.cluster.members]
            wait_for("leaders are spread", 2 * SECONDS_MAX, lambda: brokers.not_spread(admins), every=0.2)
        partitions = PARTITIONS if count > 1 else 1
        for case in self.cases.values():
            case.create(partitions)
        self.choose()
        for case in self.cases.values():
            case.writer.send(RECORDS if case.point in (*UPLOADS, ADDED) else RECORDS_OF_SEVERAL)
        for case in self.cases.values():
            case.writer.wait()
        # The longest takes what waits for checkpoints.
        for case in self.of(LOCAL_DELETE):
            case.wait_until_uploaded()
            self.begin_local_delete(case)
        for case in self.cases.values():
            if case.point not in UPLOADS:
                case.wait_until_uploaded()
        for case in self.of(LOCAL_DELETE):
            self.wait_for_local_delete()

    def choose(self):
        """The victim is the first broker that leads a partition of every topic."""
        topics = [case.topic for case in self.cases.values()]

        def obstacle():
            view = metadata.ask(self.cluster.members[0].kafka, topics)
            for member in self.cluster.members:
                led = {topic: [at for at, of in sorted(view.topics.get(topic, {}).items()) if of.leader == member.number]
                       for topic in topics}
                if all(led.values()):
                    self.victim = member
                    for case in self.cases.values():
                        case.take(led[case.topic][0])
                    return None
            return "no broker leads a partition of every topic"

        wait_for("a broker leads a partition of every topic", SECONDS_MAX, obstacle)

    def reach(self):
        """All points at the same time."""
        proxy = self.cluster.proxies[self.victim.number]
        uploads = self.of(*UPLOADS)
        for case in uploads:
            operation = HEAD if case.point == VERIFIED else PUT
            answered = case.point != BEFORE_PUT
            case.hold = proxy.add(Hold(operation, case.folder + ".*" + OBJECT, answered=answered))
        self.alter_together(uploads, NOT_WAITING)
        deletions = self.of(*DELETIONS)
        for case in deletions:
            ranges = case.objects()
            assert len(ranges) > DROPPED, f"{case.topic} has the objects {ranges}"
            case.begin = ranges[DROPPED - 1][1]
            if case.point == HALF_DELETED:
                proxy.add(Pass(DELETE, case.folder, times=1))
            case.hold = proxy.add(Hold(DELETE, case.folder, answered=case.point == ALL_DELETED))
        self.delete_together(deletions)
        for case in uploads:
            case.hold.wait(SECONDS_MAX)
        for case in deletions:
            case.hold.wait(SECONDS_MAX, DROPPED - 1 if case.point == HALF_DELETED else DROPPED)
        assert not self.has_moved(), "another broker leads now"

    def alter_together(self, cases, config):
        """In one request, so that one pass of the broker sees all."""
        from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                   for key, value in config.items()]
        resources = [ConfigResource(ConfigResource.Type.TOPIC, case.topic, incremental_configs=entries)
                     for case in cases]
        if resources:
            for future in self.cluster.admin.incremental_alter_configs(resources).values():
                future.result(60)

    def delete_together(self, cases):
        from confluent_kafka import TopicPartition
        before = [TopicPartition(case.topic, case.partition, case.begin) for case in cases]
        if before:
            for future in self.cluster.admin.delete_records(before, request_timeout=30).values():
                future.result(60)

    def begin_local_delete(self, case):
        """The broker deletes the first segment of the case, and cannot go on."""
        files = sorted(file for file in self.victim.data.glob("**/*.log") if file.stat().st_size > MIB // 2)
        (folder,) = {file.parent for file in files if self.is_of(file, case)}
        files = [file for file in files if file.parent == folder]
        assert len(files) > 2, f"{case.topic} has the segments {files}"
        command = ["strace", "-f", "-qq", "-o", str(self.cluster.directory / "strace"), "-p", str(self.victim.process.pid),
                   "-e", "trace=unlink,unlinkat",
                   "-e", f"inject=unlink,unlinkat:delay_enter={UNLINK_DELAYED_US}"]
        for file in files[1:]:
            command += ["-P", str(file)]
        self.strace = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_for("strace is attached", SECONDS_MAX, self.is_not_traced)
        self.cluster.alter(case.topic, {"local.retention.ms": "1"})
        wait_for(f"the local start of {case.topic} moves", SECONDS_MAX, lambda: (
            None if self.cluster.offset(case.topic, offsets.EARLIEST_LOCAL, case.partition) else "it is 0"))
        self.files = files

    def wait_for_local_delete(self):
        """Files are deleted by checkpoints, which are a minute apart."""
        first, *others = self.files
        wait_for("one segment is deleted", 2 * SECONDS_MAX, lambda: "it is there" if first.exists() else None)
        assert all(file.exists() for file in others), "no segment waits to be deleted"

    @staticmethod
    def is_of(file, case):
        """Whether a file is of the partition, by the first record."""
        return f"{case.topic}:0:".encode() in file.read_bytes()[:4096]

    def is_not_traced(self):
        if self.strace.poll() is not None:
            raise AssertionError(f"strace ended: {self.strace.stderr.read().decode()[-300:]}")
        status = open(f"/proc/{self.victim.process.pid}/status").read()
        return None if f"TracerPid:\t{self.strace.pid}\n" in status else "not yet"

    def end_strace(self):
        if self.strace is not None:
            self.strace.kill()
            self.strace.wait()
            self.strace = None

    def strike(self):
        followers = [member for member in self.cluster.members if member is not self.victim]
        verified = self.of(VERIFIED)
        for case in verified:
            for follower in followers:
                follower.pause()
            case.hold.release()
            # The leader proposes meanwhile, and no majority answers. One broker alone is at another place each time.
            time.sleep(0.2 if followers else random.uniform(0, 0.004))
        if self.mode == BOTH:
            self.victim.pause()
        else:
            self.victim.process.kill()
        # Before the end of the broker is waited for, which strace would delay, too.
        self.end_strace()
        if self.mode != BOTH:
            self.victim.kill()
        for follower in followers:
            if follower.is_paused:
                follower.resume()

    def recover(self):
        proxy = self.cluster.proxies[self.victim.number]
        if self.mode != BOTH:
            # What was held never reaches the bucket.
            proxy.clear()
        if self.mode == RESTART:
            self.victim.start()
        self.each(Case.wait_until_uploaded)
        self.each(Case.wait_until_deleted, self.of(*DELETIONS))
        if self.mode == BOTH:
            for case in self.cases.values():
                if case.hold is not None:
                    # What the earlier leader sent arrives now.
                    case.hold.release()
            self.victim.resume()


ROUNDS = [(mode, POINTS) for mode in MODES]
if IS_LONG:
    ROUNDS += [(mode, (point,)) for mode in MODES for point in POINTS]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """Of one and of three brokers, on either server; each is started when it is needed."""
    started = {}

    def get(server_name, count):
        if (server_name, count) not in started:
            directory = tmp_path_factory.mktemp(f"{server_name}-{count}")
            server = SERVERS[server_name](make(directory / server_name)).start()
            cluster = Cluster(BINARY, directory / "cluster", server, count, SETTINGS)
            started[server_name, count] = (server, cluster)
            cluster.start()
        return started[server_name, count][1]

    yield get
    for server, cluster in started.values():
        end(cluster)
        server.close()


@pytest.fixture(scope="module")
def rounds(clusters):
    """The rounds that were run, by server, mode and points."""
    done = {}

    def get(server_name, mode, points):
        key = (server_name, mode, points)
        if key not in done:
            cluster = clusters(server_name, 1 if mode == RESTART else 3)
            for attempt in range(PREPARED_MAX):
                done[key] = Round(cluster, mode, points, f"{mode}-{len(done)}-{attempt}")
                try:
                    done[key].run()
                    break
                except Moved as error:
                    done[key] = error
                except Exception as error:  # noqa: BLE001
                    done[key] = error
                    break
        if isinstance(done[key], Exception):
            raise done[key]
        return done[key]

    return get


def named():
    """One test for each server, mode, round and point. In the normal form a mode has one server."""
    for mode, points in ROUNDS:
        servers = sorted(SERVERS) if IS_LONG else ["versitygw" if mode == RESTART else "minio"]
        for server in servers:
            for point in points:
                name = f"{server}-{mode}-{point}" + ("" if points == POINTS else "-alone")
                yield pytest.param(server, mode, points, point, id=name)


@pytest.mark.parametrize("server_name, mode, points, point", list(named()))
def test_t1_after_a_kill_every_record_is_there_once(rounds, note, server_name, mode, points, point):
    round_ = rounds(server_name, mode, points)
    case = round_.cases[point]
    if case.failure is not None:
        raise case.failure
    count = check_records(case.writer, case.begin)
    scrubbed = check_bucket(round_.cluster, case.topic, case.partition, case.id)
    left = scrubbed.objects[case.id, case.partition]
    chain = scrubbed.chain(left, case.begin, round_.cluster.tier_end(case.topic, case.partition))
    orphans = len(left) - len(chain)
    # Only an upload that was not added leaves an object that no manifest names.
    assert orphans <= (1 if point in UPLOADS else 0), f"objects {left}, of which {chain} are read"
    note(f"{count} records, {len(chain)} objects, {orphans} orphans")
