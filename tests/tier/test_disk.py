"""More records than the broker's disk holds pass through it, because the bucket takes them."""

import os
import threading
import time

import pytest
from conftest import IS_LONG
from disk import Disk
from harness import MIB, SECONDS_MAX, check_bucket, offsets
from confluent_kafka import Consumer, Producer, TopicPartition

TOPIC, PARTITIONS = "large", 4
GIB = 1 << 30
DISK_BYTES = GIB
TOTAL_BYTES = 10 * GIB if IS_LONG else 2 * GIB
RECORD_BYTES = 64 << 10
# Until the last record is acknowledged, or read.
LOAD_S_MAX = 1800 if IS_LONG else 240
SETTINGS = {
    "ropewalk.tier.object.bytes": 32 * MIB,
    "ropewalk.tier.upload.max.age.ms": 2000,
    # A full disk is checked more often.
    "log.retention.check.interval.ms": 2000,
}
CONFIG = {
    "remote.storage.enable": "true", "retention.bytes": "-1", "retention.ms": "-1",
    "local.retention.bytes": str(32 * MIB), "local.retention.ms": "-1", "segment.bytes": str(16 * MIB),
}
FILLER = os.urandom(RECORD_BYTES)


class SmallDisk(Disk):
    size_bytes = DISK_BYTES


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = SmallDisk(tmp_path / "small", f"ropewalk-tier-{os.getpid()}")
    disk.mount()
    yield disk
    disk.unmount()


def value_of(sequence):
    """Each record is another one, and does not compress."""
    prefix, begin = f"{sequence}:".encode(), sequence % 1024
    return prefix + (FILLER[begin:] + FILLER[:begin])[len(prefix):]


class Load:
    """Writes everything, and keeps which record was acknowledged at which offset."""

    def __init__(self, cluster):
        self.acked = [{} for _ in range(PARTITIONS)]
        self.failures, self.slowest_s = [], 0.0
        self.producer = Producer({
            "bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
            "message.timeout.ms": LOAD_S_MAX * 1000, "reconnect.backoff.max.ms": 200,
            "queue.buffering.max.kbytes": 64 << 10, "batch.size": 512 << 10, "log_level": 0,
        })

    def run(self):
        for sequence in range(TOTAL_BYTES // RECORD_BYTES):
            began = time.monotonic()
            while True:
                try:
                    self.producer.produce(TOPIC, value_of(sequence), partition=sequence % PARTITIONS,
                                          on_delivery=lambda error, message, at=sequence: self.done(error, message, at))
                    break
                except BufferError:
                    self.producer.poll(0.05)
            self.producer.poll(0)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        left = self.producer.flush(LOAD_S_MAX)
        if left:
            self.failures.append(f"{left} records had no answer")

    def done(self, error, message, sequence):
        if error is not None:
            self.failures.append(str(error))
        else:
            self.acked[message.partition()][message.offset()] = sequence


def check_all(cluster, load):
    """Every record from offset 0, once and in order."""
    count = 0
    for partition, acked in enumerate(load.acked):
        end = cluster.offset(TOPIC, offsets.LATEST, partition)
        assert cluster.offset(TOPIC, offsets.EARLIEST, partition) == 0 and end == len(acked)
        consumer = Consumer({
            "bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False, "log_level": 0,
            "queued.max.messages.kbytes": 64 << 10, "fetch.message.max.bytes": 4 * MIB,
        })
        consumer.assign([TopicPartition(TOPIC, partition, 0)])
        position, deadline = 0, time.monotonic() + LOAD_S_MAX
        while position < end:
            assert time.monotonic() < deadline, f"offset {position} of {end} of partition {partition}. {cluster.said()}"
            for message in consumer.consume(200, 0.5):
                assert not message.error(), message.error()
                assert message.offset() == position, f"{message.offset()} instead of {position}"
                assert message.value() == value_of(acked[position]), f"another value at {position}"
                position, count = position + 1, count + 1
        consumer.close()
    return count


@pytest.mark.waits
def test_more_passes_than_the_disk_holds(small_disk, start_cluster, note):
    cluster = start_cluster(settings={**SETTINGS, "1:log.dirs": small_disk.path / "data"}, proxied=False)
    cluster.create(TOPIC, CONFIG, PARTITIONS)
    load = Load(cluster)
    writing = threading.Thread(target=load.run, daemon=True)
    began = time.monotonic()
    writing.start()
    least = DISK_BYTES
    while writing.is_alive():
        writing.join(0.2)
        space = os.statvfs(small_disk.path)
        least = min(least, space.f_bavail * space.f_frsize)
        assert time.monotonic() - began < LOAD_S_MAX, f"{sum(map(len, load.acked))} records. {cluster.said()}"
    took = time.monotonic() - began
    assert not load.failures, load.failures[:3]
    cluster.wait_until_uploaded(TOPIC, PARTITIONS, seconds_max=4 * SECONDS_MAX)
    used = sum(file.stat().st_blocks * 512 for file in small_disk.path.glob("**/*.log"))
    assert used < DISK_BYTES // 2, f"{used >> 20} MiB of segments are still there"
    began = time.monotonic()
    count = check_all(cluster, load)
    read_took = time.monotonic() - began
    assert count == TOTAL_BYTES // RECORD_BYTES
    check_bucket(cluster, TOPIC)
    note(f"{TOTAL_BYTES / GIB:.0f} GiB through a disk of {DISK_BYTES / GIB:.0f} GiB: written in {took:.0f} s "
         f"(the client waited {load.slowest_s:.1f} s at most, {least >> 20} MiB were free at least), read in {read_took:.0f} s")
