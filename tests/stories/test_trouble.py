"""A sequence of failures under load: whenever `/ready` answers 200 before and after a round of writes, each partition
accepts its record, or `/v1/broker` names the reason why it does not.

SEED repeats the order of the failures; SECONDS is the duration (60; 600 with LONG=1).
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from records import create, read_all
from wire import Connection, create_topics_v2, join_group_v1, offset_commit_v2

PARTITIONS = 24
FAILED_DISK = 5  # the exit code that --help names
# The conditions of `/v1/broker` while writes are refused or wait, and the errors that clients may then get.
NAMED = {
    KafkaError.KAFKA_STORAGE_ERROR: {"damaged_shard", "damaged_partitions", "storage_full", "log_at_limit"},
    KafkaError.REQUEST_TIMED_OUT: {"storage_full", "log_at_limit"},
    KafkaError._MSG_TIMED_OUT: {"storage_full", "log_at_limit"},
}


class Rounds(threading.Thread):
    """Writes one record to each partition repeatedly, and records acknowledgements and violations."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.stopping = broker, threading.Event()
        self.acked, self.faults, self.judged = {p: set() for p in range(PARTITIONS)}, [], 0
        # Incremented before and after each time that the process does not run, so it is odd meanwhile. A round that
        # overlaps such a time is not judged.
        self.ends = 0

    @contextlib.contextmanager
    def not_judged(self):
        self.ends += 1
        yield
        self.ends += 1

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://{self.broker.admin}/ready", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def conditions(self):
        with contextlib.suppress(urllib.error.URLError, OSError):
            return {condition["kind"] for condition in self.broker.get("/v1/broker")["conditions"]}
        return set()

    def run(self):
        producer = Producer({
            "bootstrap.servers": self.broker.kafka, "acks": "all", "linger.ms": 0, "retries": 0, "log_level": 0,
            "message.timeout.ms": 10_000, "request.timeout.ms": 9_000, "reconnect.backoff.max.ms": 100,
        })
        for number in itertools.count():
            if self.stopping.is_set():
                return
            ends, named, ready = self.ends, self.conditions(), self.is_ready()
            answers = {}
            for partition in range(PARTITIONS):
                producer.produce(
                    "t", str(number), partition=partition,
                    on_delivery=lambda error, message: answers.__setitem__(message.partition(), error))
            producer.flush(15)
            named |= self.conditions()
            for partition in range(PARTITIONS):
                if answers.get(partition, "no answer") is None:
                    self.acked[partition].add(str(number))
            if ends % 2 or not (ready and self.is_ready() and self.ends == ends):
                continue
            self.judged += 1
            for partition, error in answers.items():
                if error is not None and not NAMED.get(error.code(), set()) & named:
                    self.faults.append(f"round {number}, partition {partition}: {error.str()}; named: {sorted(named)}")
            time.sleep(0.1)


class Troubles:
    def __init__(self, broker, rounds, rng):
        self.broker, self.rounds, self.rng = broker, rounds, rng
        # Acknowledged before the last damage: repair may have accepted their loss.
        self.damaged = {p: set() for p in range(PARTITIONS)}

    def killed(self):
        with self.rounds.not_judged():
            self.broker.kill()
            self.broker.start()

    def restarted(self):
        with self.rounds.not_judged():
            assert self.broker.stop() == 0
            self.broker.start()

    def paused(self):
        self.broker.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        self.broker.process.send_signal(signal.SIGCONT)

    def idle_admin_connections(self):
        host, _, port = self.broker.admin.rpartition(":")
        held = []
        try:
            for _ in range(300):
                held.append(socket.create_connection((host, int(port)), 5))
            for _ in range(5):
                assert urllib.request.urlopen(f"http://{self.broker.admin}/live", timeout=2).status == 200
                time.sleep(0.3)
        finally:
            for one in held:
                one.close()

    def a_huge_batch(self):
        # Exists already, or refused: the batch is sent in any case.
        with contextlib.suppress(KafkaException):
            create(self.broker, "large", 1, **{"max.message.bytes": "80000000"})
        producer = Producer({
            "bootstrap.servers": self.broker.kafka, "message.max.bytes": 100_000_000, "message.timeout.ms": 20_000,
            "log_level": 0})
        producer.produce("large", b"x" * 70_000_000, partition=0)
        assert producer.flush(40) == 0

    def huge_joins(self):
        def join():
            with contextlib.suppress(EOFError, OSError):
                Connection(self.broker.kafka, 20).call(*join_group_v1("huge", "", b"m" * (25 << 20), 6000, 3000))

        threads = [threading.Thread(target=join) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def a_huge_commit(self):
        with contextlib.suppress(EOFError, OSError):
            Connection(self.broker.kafka, 20).call(*offset_commit_v2("huge", "t", [0] * 22_000, "m" * 4000))

    def huge_settings(self):
        with contextlib.suppress(EOFError, OSError):
            Connection(self.broker.kafka, 20).call(*create_topics_v2("huge", [("cleanup.policy", "x" * 32_000)] * 640))

    def a_failing_disk(self):
        """From now on writes and syncs fail: the process ends with exit code 5 and is started again."""
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,pwrite64",
                 "-e", "inject=fdatasync,pwrite64:error=EIO:when=1+"]
        with self.rounds.not_judged():
            tracer = subprocess.Popen([*trace, "-p", str(self.broker.process.pid)], stderr=subprocess.DEVNULL)
            try:
                assert self.broker.ended(30) == FAILED_DISK, self.broker.log()[-500:]
            finally:
                tracer.kill()
                tracer.wait()
            self.broker.start()

    def no_file_descriptors(self):
        pid = self.broker.process.pid
        limit = subprocess.check_output(["prlimit", "--pid", str(pid), "--nofile", "-o", "SOFT", "--noheadings"], text=True).strip()
        open_now = len(os.listdir(f"/proc/{pid}/fd"))
        # New connections wait; open ones are still served.
        subprocess.check_call(["prlimit", "--pid", str(pid), f"--nofile={open_now + 1}:"])
        time.sleep(2)
        subprocess.check_call(["prlimit", "--pid", str(pid), f"--nofile={limit}:"])

    def a_damaged_segment(self):
        """A flipped byte in a segment: the broker names it and serves the rest, until `repair` accepts the loss."""
        with self.rounds.not_judged():
            assert self.broker.stop() == 0
            self.damaged = {p: set(acked) for p, acked in self.rounds.acked.items()}
            self._flip_a_byte()
            self.broker.start()
        time.sleep(2)
        with self.rounds.not_judged():
            assert self.broker.stop() == 0
            done = subprocess.run(
                [self.broker.binary, "repair", "--data", str(self.broker.data), "--accept-loss"],
                capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-800:]
            self.broker.start()

    def _flip_a_byte(self):
        files = sorted(path for path in self.broker.data.rglob("*.log") if path.stat().st_size > 4096)
        if files:
            path = self.rng.choice(files)
            with open(path, "r+b") as file:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 0x40]))


ALL = [name for name in vars(Troubles) if not name.startswith("_")]


@pytest.mark.skipif(os.geteuid() != 0, reason="tracing and limiting another process needs root")
def test_while_it_is_ready_each_partition_takes_records_or_the_reason_is_named(make_broker):
    assert shutil.which("strace") and shutil.which("prlimit")
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    seconds = int(os.environ.get("SECONDS") or (600 if os.environ.get("LONG") else 60))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    broker = make_broker(["log.segment.bytes=1048576"])
    create(broker, "t", PARTITIONS)
    rounds = Rounds(broker)
    rounds.start()
    troubles, end = Troubles(broker, rounds, rng), time.monotonic() + seconds
    order = []
    while time.monotonic() < end or not order:
        for name in rng.sample(ALL, len(ALL)):
            order.append(name)
            print(f"{time.strftime('%X')} {name}")
            getattr(troubles, name)()
            time.sleep(rng.uniform(0.2, 1.0))
    rounds.stopping.set()
    rounds.join(30)
    assert not rounds.faults, "\n".join(rounds.faults[:20])
    assert rounds.judged >= len(order), f"only {rounds.judged} rounds were judged for {len(order)} troubles"
    for partition, acked in rounds.acked.items():
        lost = acked - set(read_all(broker, "t", partition)) - troubles.damaged[partition]
        assert not lost, f"partition {partition} lost {len(lost)} acknowledged records, {min(lost, key=int)} the first"
