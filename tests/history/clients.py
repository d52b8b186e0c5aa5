"""Clients that put a topic under load and record what they did and were told: see history.py.

Each function runs in a process of its own, until `stop` is set.
"""

import collections
import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from history import INFO, OK, Recorder, now

# Longer than any test: an idempotent client retries until it knows the outcome.
PATIENCE_MS = 900_000
# How long clients have for what is unanswered when they are stopped, in seconds.
LAST_ANSWERS_S = 120


@dataclass(frozen=True)
class Pace:
    """A writer rests for so many seconds after so many records."""

    records: int
    rest_s: float


def named(topic, partition):
    return f"{topic}/{partition}"


class Epochs(logging.Handler):
    """Keeps what librdkafka says of its producer epochs, and records when it begins a new one."""

    def __init__(self, recorder, path):
        super().__init__()
        self.recorder, self.file = recorder, open(path, "w", buffering=1)

    def emit(self, record):
        text = record.getMessage()
        self.file.write(f"{now()} {text}\n")
        if "epoch bump" in text:
            self.recorder.write("epoch", now(), why=text)


def write_with_librdkafka(bootstrap, topic, partitions, name, path, stop, codec="none", pace=Pace(50, 0.002), progress=None):
    """Beside the history is a file that says when librdkafka waits for outstanding requests and begins a new producer
    epoch: a batch of the old epoch that it sends again in the new one cannot be recognized as a duplicate."""
    with Recorder(path, name, progress) as recorder:
        log = logging.Logger(name)
        log.addHandler(Epochs(recorder, f"{path}.log"))
        producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 2,
            "compression.type": codec, "message.timeout.ms": PATIENCE_MS, "reconnect.backoff.max.ms": 200,
            "queue.buffering.max.messages": 2000, "log_level": 7, "debug": "eos",
        }, logger=log)
        unanswered = {}

        def answered(error, message):
            if error:
                print(f"{name}: {message.value().decode()}: {error}", file=sys.stderr)
            value = message.value().decode()
            partition, began = unanswered.pop(value)
            fields = {"outcome": INFO} if error else {"outcome": OK, "offset": message.offset()}
            recorder.write("send", began, partition=partition, value=value, **fields)

        sequence = 0
        while not stop.is_set():
            value, partition = f"{name}:{sequence}", sequence % partitions
            unanswered[value] = (named(topic, partition), now())
            try:
                producer.produce(topic, value, partition=partition, on_delivery=answered)
                sequence += 1
            except BufferError:
                del unanswered[value]
                producer.poll(0.05)
            producer.poll(0)
            if sequence % pace.records == 0:
                time.sleep(pace.rest_s)
        producer.flush(LAST_ANSWERS_S)
        for value, (partition, began) in unanswered.items():
            recorder.write("send", began, partition=partition, value=value, outcome=INFO)
        if unanswered:
            sys.exit(f"{name}: {len(unanswered)} records had no answer {LAST_ANSWERS_S} s after the end of the load")


def write_with_kafka_python(bootstrap, topic, partitions, name, path, stop, codec=None, pace=Pace(20, 0.002), progress=None):
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    producer = KafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", linger_ms=2,
        compression_type=codec, delivery_timeout_ms=PATIENCE_MS, max_block_ms=PATIENCE_MS,
        reconnect_backoff_max_ms=200,
    )
    with Recorder(path, name, progress) as recorder:
        sequence, unanswered = 0, collections.deque()

        def wait_for_first():
            value, partition, began, future = unanswered.popleft()
            try:
                fields = {"outcome": OK, "offset": future.get(timeout=LAST_ANSWERS_S).offset}
            except KafkaError as error:
                print(f"{name}: {value}: {error!r}", file=sys.stderr)
                fields = {"outcome": INFO}
            recorder.write("send", began, partition=named(topic, partition), value=value, **fields)

        while not stop.is_set():
            value, partition, began = f"{name}:{sequence}", sequence % partitions, now()
            unanswered.append((value, partition, began, producer.send(topic, value.encode(), partition=partition)))
            sequence += 1
            while unanswered and (unanswered[0][3].is_done or len(unanswered) > 1000):
                wait_for_first()
            if sequence % pace.records == 0:
                time.sleep(pace.rest_s)
        producer.flush(timeout=LAST_ANSWERS_S)
        while unanswered:
            wait_for_first()


def write_with_franz_go(program, bootstrap, topic, partitions, name, path, stop, pace, progress=None):
    """`program` is tests/clients/go/history, which writes one line for each answer until its input ends."""
    command = [program, bootstrap, topic, str(partitions), name, str(pace.records), str(pace.rest_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        threading.Thread(target=lambda: (stop.wait(), process.stdin.close()), daemon=True).start()
        with Recorder(path, name, progress) as recorder:
            for line in process.stdout:
                recorder.write("send", **json.loads(line))
        if process.wait(LAST_ANSWERS_S):
            sys.exit(f"{name}: ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def consume_in_group(bootstrap, topic, group, name, path, stop, progress=None):
    """Reads as a member of a group, and commits what it read."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "log_level": 0, "reconnect.backoff.max.ms": 200, "session.timeout.ms": 45000,
    })
    with Recorder(path, name, progress) as recorder:

        def assigned(_, partitions):
            assigned_now = [named(p.topic, p.partition) for p in partitions]
            recorder.write("assign", now(), how="subscribe", partitions=assigned_now)

        consumer.subscribe([topic], on_assign=assigned)
        while not stop.is_set():
            began = now()
            messages = [message for message in consumer.consume(200, timeout=0.2) if not message.error()]
            if not messages:
                continue
            recorder.write("poll", began, records=[record_of(message) for message in messages])
            positions = {message.partition(): message.offset() + 1 for message in messages}
            began, outcome = now(), INFO
            try:
                offsets = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
                if not any(answer.error for answer in consumer.commit(offsets=offsets, asynchronous=False)):
                    outcome = OK
            except KafkaException as error:
                print(f"{name}: a commit failed: {error}", file=sys.stderr)
            offsets = {named(topic, partition): offset for partition, offset in positions.items()}
            recorder.write("commit", began, group=group, offsets=offsets, outcome=outcome)
    consumer.close()


def consume_with_kafka_python(bootstrap, topic, group, name, path, stop, progress=None):
    """The same with kafka-python."""
    from kafka import ConsumerRebalanceListener, KafkaConsumer
    from kafka.errors import KafkaConnectionError, KafkaError
    from kafka.structs import OffsetAndMetadata

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
        reconnect_backoff_max_ms=200, session_timeout_ms=45_000,
    )
    with Recorder(path, name, progress) as recorder:

        class Assigned(ConsumerRebalanceListener):
            def on_partitions_revoked(self, revoked):
                pass

            def on_partitions_assigned(self, assigned):
                assigned_now = [named(p.topic, p.partition) for p in assigned]
                recorder.write("assign", now(), how="subscribe", partitions=assigned_now)

        consumer.subscribe([topic], listener=Assigned())
        # The first poll has much time. The client joins before it knows the topic, is assigned nothing, and joins again
        # when it knows it. If a poll ends between the assignment that it computes then and the answer to SyncGroup, the
        # assignment is lost: need_rejoin() compares the topic with the computed assignment, so the next poll takes the
        # member for joined, and it reads nothing for ever (kafka-python 3.0.12).
        poll_ms = 30_000
        while not stop.is_set():
            began = now()
            try:
                batches = consumer.poll(timeout_ms=poll_ms)
            except KafkaConnectionError as error:
                # It looks for its coordinator again in the next poll (kafka-python 3.0.12).
                print(f"{name}: a poll lost its connection: {error!r}", file=sys.stderr)
                continue
            poll_ms = 200
            if not batches:
                continue
            records = [[named(record.topic, record.partition), record.offset, record.value.decode()]
                       for batch in batches.values() for record in batch]
            recorder.write("poll", began, records=records)
            positions = {partition: OffsetAndMetadata(batch[-1].offset + 1, "", -1) for partition, batch in batches.items()}
            began, outcome = now(), OK
            try:
                consumer.commit(positions)
            except KafkaError as error:
                print(f"{name}: a commit failed: {error!r}", file=sys.stderr)
                outcome = INFO
            offsets = {named(p.topic, p.partition): position.offset for p, position in positions.items()}
            recorder.write("commit", began, group=group, offsets=offsets, outcome=outcome)
    consumer.close(autocommit=False)


def read_all(bootstrap, topic, partitions, groups, path, seconds_max=120):
    """Reads every record of a topic whose writers have ended, and the offsets of the groups."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "reads-all", "enable.auto.commit": False, "log_level": 0,
    })
    with Recorder(path, "reads-all") as recorder:
        for partition in range(partitions):
            assignment = TopicPartition(topic, partition, 0)
            end = end_of(consumer, assignment)
            recorder.write("assign", now(), how="assign", partitions=[named(topic, partition)])
            consumer.assign([assignment])
            at, deadline = 0, time.monotonic() + seconds_max
            while at < end:
                if time.monotonic() > deadline:
                    sys.exit(f"partition {partition} could be read to {at} in {seconds_max} s, its end is {end}")
                began = now()
                messages = [message for message in consumer.consume(10_000, timeout=0.1) if not message.error()]
                if messages:
                    recorder.write("poll", began, records=[record_of(message) for message in messages])
                    at = messages[-1].offset() + 1
        for group in groups:
            recorder.write("committed", now(), group=group, offsets=committed_by(bootstrap, topic, partitions, group))
    consumer.close()


def end_of(consumer, partition, seconds_max=30):
    """The end of a partition. librdkafka does not ask a new leader by itself when the leadership has just moved."""
    deadline = time.monotonic() + seconds_max
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=seconds_max)[1]
        except KafkaException as error:
            moved = error.args[0].code() in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
            if not moved or time.monotonic() > deadline:
                raise
            print(f"the end of {partition.topic}/{partition.partition} is asked for again: {error}", file=sys.stderr)
            time.sleep(0.1)


def committed_by(bootstrap, topic, partitions, group):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    asked = [TopicPartition(topic, partition) for partition in range(partitions)]
    answers = consumer.committed(asked, timeout=30)
    consumer.close()
    return {named(topic, answer.partition): answer.offset for answer in answers if answer.offset >= 0}


def record_of(message):
    return [named(message.topic(), message.partition()), message.offset(), message.value().decode()]
