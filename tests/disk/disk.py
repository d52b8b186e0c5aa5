"""A disk that becomes full, and one that fails: what clients receive, the exit code, and the data after a restart.

    disk.py BROKER SCRATCH SMALL_MOUNT
"""

import pathlib
import shutil
import signal
import sys
import time
import urllib.request

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from broker import Broker  # noqa: E402

STARTED = []
BROKER, SCRATCH, SMALL = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
TOPIC = "disk"
FAILED_DISK = 5  # the exit code that --help names


def make_broker(data, settings=()):
    name = f"{pathlib.Path(data).parent.name}-{pathlib.Path(data).name}.log"
    broker = Broker(BROKER, data, settings, SCRATCH / name)
    STARTED.append(broker)
    return broker


def create_topic(broker, **config):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    admin.create_topics([NewTopic(TOPIC, 2, config=config)])[TOPIC].result(30)
    return admin


class Writer:
    """Records what was acknowledged, and what was refused with which error."""

    def __init__(self, broker, timeout_ms=8000):
        self.acked, self.refused, self.sequence = {0: {}, 1: {}}, [], 0
        self.producer = Producer({
            "bootstrap.servers": broker.kafka, "acks": "all", "linger.ms": 2, "log_level": 0,
            "message.timeout.ms": timeout_ms, "reconnect.backoff.max.ms": 200, "retries": 3,
        })

    def send(self, size_bytes):
        value = f"{self.sequence}:".encode().ljust(size_bytes, b"x")
        self.sequence += 1

        def delivered(error, message, value=value):
            if error is None:
                self.acked[message.partition()][message.offset()] = value
            else:
                self.refused.append(error)

        while True:
            try:
                self.producer.produce(TOPIC, value, partition=self.sequence % 2, on_delivery=delivered)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.producer.poll(0)

    def send_until_refused(self, size_bytes, bytes_max):
        sent = 0
        while not self.refused and sent < bytes_max:
            self.send(size_bytes)
            sent += size_bytes
        self.producer.flush(30)
        return sent


def check_acked(broker, acked, low=None):
    """Everything that was acknowledged (from `low` on) is at its offset with its value."""
    consumer = Consumer({"bootstrap.servers": broker.kafka, "group.id": "check", "enable.auto.commit": False})
    count = 0
    for partition, expected in acked.items():
        expected = {offset: value for offset, value in expected.items() if not low or offset >= low[partition]}
        start, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=30)
        if not expected:
            continue
        assert start <= min(expected) and max(expected) < end, f"{start}..{end} lacks acknowledged offsets"
        consumer.assign([TopicPartition(TOPIC, partition, start)])
        position, deadline = start, time.monotonic() + 120
        while position < end and time.monotonic() < deadline:
            message = consumer.poll(5)
            if message is None or message.error():
                continue
            position = message.offset() + 1
            if message.offset() in expected:
                assert expected.pop(message.offset()) == message.value(), f"another value at {message.offset()}"
                count += 1
        assert not expected, f"{len(expected)} acknowledged records of partition {partition} are gone"
    consumer.close()
    return count


def full_disk():
    """A small disk becomes full: producers get an error, readers continue, deleting frees space, restarts lose nothing."""
    broker = make_broker(SMALL / "data", ["log.segment.bytes=16777216"])
    broker.start()
    admin = create_topic(broker)
    writer = Writer(broker)
    sent = writer.send_until_refused(64 << 10, 2 << 30)
    assert writer.refused, f"{sent >> 20} MiB were accepted by a disk of 1 GiB"
    codes = {error.code() for error in writer.refused}
    refusals = {KafkaError.KAFKA_STORAGE_ERROR, KafkaError._MSG_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS}
    assert codes <= refusals, f"refused with {sorted(KafkaError(code).str() for code in codes)}"
    taken = sum(map(len, writer.acked.values()))
    print(f"full after {taken} records of 64 KiB; refused: {', '.join(sorted({e.str() for e in writer.refused}))}")
    assert urllib.request.urlopen(f"http://{broker.admin}/live", timeout=5).status == 200
    assert broker.metric("ropewalk_disk_full") == 1, "the metric does not report the full disk"
    assert check_acked(broker, writer.acked) == taken
    print("full: everything that was acknowledged can be read")

    # Each start begins a new log file, which must not need free space.
    for _ in range(6):
        broker.kill()
        broker.start()
    assert check_acked(broker, writer.acked) == taken
    print("full and killed six times: it starts each time with all records")

    middle = {partition: max(acked) * 3 // 4 for partition, acked in writer.acked.items()}
    for partition, future in admin.delete_records(
        [TopicPartition(TOPIC, partition, offset) for partition, offset in middle.items()], operation_timeout=30
    ).items():
        future.result(60)
    after = Writer(broker, timeout_ms=60000)
    for _ in range(200):
        after.send(64 << 10)
    after.producer.flush(90)
    assert not after.refused, f"after records were deleted: {after.refused[0].str()}"
    for partition, acked in after.acked.items():
        writer.acked[partition].update(acked)
    kept = check_acked(broker, writer.acked, middle)
    print(f"records deleted on a full disk free space: 200 more accepted, {kept} remain")
    broker.process.send_signal(signal.SIGTERM)
    assert broker.ended(30) == 0, broker.log()[-400:]


def failing(call, first, name):
    """From the first-th call of this kind on, the disk fails: the process ends and reports the error."""
    data = SCRATCH / f"failing-{name}"
    broker = make_broker(data)
    broker.start()
    create_topic(broker)
    broker.process.terminate()
    assert broker.ended(30) == 0

    trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}"]
    broker.start([*trace, "-e", f"inject={call}:error=EIO:when={first}+"], wait=False)
    broker.answers(30)
    writer = Writer(broker, timeout_ms=5000)
    deadline = time.monotonic() + 60
    while broker.process.poll() is None and time.monotonic() < deadline:
        for _ in range(20):
            writer.send(32 << 10)
        writer.producer.poll(0.01)
    code = broker.ended(10)
    assert code == FAILED_DISK, f"exit code {code}: {broker.log()[-400:]}"
    said = broker.log().strip().splitlines()[-1].strip()
    writer.producer.flush(10)
    taken = sum(map(len, writer.acked.values()))

    broker.start()
    assert check_acked(broker, writer.acked) == taken
    broker.process.terminate()
    assert broker.ended(30) == 0
    shutil.rmtree(data)
    print(f"{name}: exit code {code} ({said[:110]}); all {taken} acknowledged records are there after a restart")


def main():
    try:
        full_disk()
        failing("fdatasync", 60, "syncs fail")
        failing("pwrite64", 400, "writes fail")
    finally:
        for broker in STARTED:
            broker.kill()


if __name__ == "__main__":
    main()
