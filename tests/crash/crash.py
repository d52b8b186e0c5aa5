"""Kills the broker repeatedly under load, then checks the guarantees to clients.

Writers are separate processes with an idempotent producer; each appends a line to its journal for every
acknowledged record: partition, offset, value. A committer consumes in a group and appends every
acknowledged commit to its journal. At the end the test reads everything and checks:

- every acknowledged record is at its offset with its value (D1),
- no value occurs twice (D5), and each writer's values are in order per partition,
- offsets are dense (O1),
- a group's offset is its last acknowledged commit, or one that was sent after it (O3).
"""

import collections
import multiprocessing
import pathlib
import random
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from broker import Broker  # noqa: E402

TOPIC, GROUP, PARTITIONS = "crash", "crash-group", 6
# Longer than the whole run: an idempotent client retries until the outcome is known.
PATIENCE_MS = 900_000


def write_with_librdkafka(bootstrap, name, journal, stop, codec):
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 2,
        "compression.type": codec, "message.timeout.ms": PATIENCE_MS, "log_level": 0, "reconnect.backoff.max.ms": 200,
        "queue.buffering.max.messages": 2000,
    })
    with open(journal, "w", buffering=1) as journal:

        def acked(error, message):
            if error:
                print(f"{name}: {error}", file=sys.stderr)
            else:
                print(message.partition(), message.offset(), message.value().decode(), file=journal)

        sequence = 0
        while not stop.is_set():
            try:
                producer.produce(TOPIC, f"{name}:{sequence}", partition=sequence % PARTITIONS, on_delivery=acked)
                sequence += 1
            except BufferError:
                producer.poll(0.05)
            producer.poll(0)
            if sequence % 50 == 0:
                time.sleep(0.002)
        left = producer.flush(120)
        if left:
            sys.exit(f"{name}: {left} records had no answer 120 s after the last kill")


def write_with_kafka_python(bootstrap, name, journal, stop, codec):
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", linger_ms=2,
        compression_type=codec, delivery_timeout_ms=PATIENCE_MS, max_block_ms=PATIENCE_MS,
        reconnect_backoff_max_ms=200,
    )
    with open(journal, "w", buffering=1) as journal:
        sequence, waiting = 0, collections.deque()
        while not stop.is_set() or waiting:
            if stop.is_set():
                producer.flush(timeout=120)
            else:
                value = f"{name}:{sequence}"
                waiting.append((value, producer.send(TOPIC, value.encode(), partition=sequence % PARTITIONS)))
                sequence += 1
            while waiting and (waiting[0][1].is_done or len(waiting) > 1000 or stop.is_set()):
                value, future = waiting.popleft()
                done = future.get(timeout=120)
                print(done.partition, done.offset, value, file=journal)
            if sequence % 20 == 0:
                time.sleep(0.002)


def commit(bootstrap, journal, stop):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "log_level": 0, "reconnect.backoff.max.ms": 200, "session.timeout.ms": 45000,
    })
    consumer.subscribe([TOPIC])
    with open(journal, "w", buffering=1) as journal:
        while not stop.is_set():
            messages = consumer.consume(200, timeout=0.2)
            positions = {m.partition(): m.offset() + 1 for m in messages if not m.error()}
            if not positions:
                continue
            offsets = [TopicPartition(TOPIC, p, o) for p, o in positions.items()]
            for p, o in positions.items():
                print("sent", p, o, file=journal)
            try:
                for tp in consumer.commit(offsets=offsets, asynchronous=False):
                    if not tp.error:
                        print("acked", tp.partition, tp.offset, file=journal)
            except KafkaException:
                pass  # Not acknowledged: the outcome is unknown.
    consumer.close()


def read_back(bootstrap):
    """Every record: partition -> [(offset, value)]."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False, "log_level": 0})
    records = {}
    for partition in range(PARTITIONS):
        tp = TopicPartition(TOPIC, partition, 0)
        _, end = consumer.get_watermark_offsets(tp, timeout=30)
        consumer.assign([tp])
        read, deadline = [], time.time() + 120
        while (read[-1][0] + 1 if read else 0) < end:
            if time.time() > deadline:
                sys.exit(f"partition {partition} could not be read to its end {end}: {len(read)} records")
            for message in consumer.consume(10_000, timeout=1.0):
                if not message.error():
                    read.append((message.offset(), message.value().decode()))
        records[partition] = read
    committed = consumer.committed([TopicPartition(TOPIC, p) for p in range(PARTITIONS)], timeout=30)
    consumer.close()
    return records, committed


def check(journals, records):
    faults, acked = [], 0
    for partition, read in records.items():
        offsets = [offset for offset, _ in read]
        if offsets != list(range(len(offsets))):
            faults.append(f"O1: offsets of partition {partition} are not dense")
        last = {}
        for _, value in read:
            writer, sequence = value.split(":")
            if int(sequence) <= last.get(writer, -1):
                faults.append(f"D5: {value} in partition {partition} comes after {last[writer]}: twice or out of order")
            last[writer] = int(sequence)
    by_offset = {partition: dict(read) for partition, read in records.items()}
    for journal in journals:
        for line in journal.read_text().splitlines():
            partition, offset, value = line.split()
            acked += 1
            found = by_offset[int(partition)].get(int(offset))
            if found != value:
                faults.append(f"D1: {value} was acknowledged at {partition}/{offset}; there is {found}")
    return faults, acked


def check_commits(journal, committed):
    sent, last, faults, count = collections.defaultdict(list), {}, [], 0
    for line in journal.read_text().splitlines():
        what, partition, offset = line.split()
        partition, offset = int(partition), int(offset)
        if what == "sent":
            sent[partition].append(offset)
        else:
            count += 1
            last[partition], sent[partition] = offset, [offset]
    for tp in committed:
        allowed = sent[tp.partition]
        if tp.partition in last and tp.offset not in allowed:
            faults.append(f"O3: partition {tp.partition} is committed at {tp.offset}, acknowledged was {last[tp.partition]}")
    return faults, count


def main(binary, scratch, kills, seed):
    scratch, rng = pathlib.Path(scratch), random.Random(seed)
    broker = Broker(binary, scratch / "data", ["group.initial.rebalance.delay.ms=0"])
    bootstrap = broker.kafka
    stop = multiprocessing.Event()
    writers = [("rd-none", write_with_librdkafka, "none"), ("rd-lz4", write_with_librdkafka, "lz4"),
               ("python", write_with_kafka_python, None)]
    journals = [scratch / f"{name}.journal" for name, _, _ in writers]
    commits = scratch / "commits.journal"
    processes = [multiprocessing.Process(target=write, args=(bootstrap, name, journal, stop, codec))
                 for (name, write, codec), journal in zip(writers, journals)]
    processes.append(multiprocessing.Process(target=commit, args=(bootstrap, commits, stop)))
    try:
        broker.start()
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
        for process in processes:
            process.start()
        for kill in range(kills):
            # Most kills hit the middle of the load, some the recovery itself.
            time.sleep(rng.choice([rng.uniform(0.0, 0.1), rng.uniform(0.3, 1.5), rng.uniform(0.3, 1.5)]))
            broker.kill()
            # Waits only for the port: the next kill may come before the broker is ready.
            broker.start(wait=False)
            broker.listens(60)
            if (kill + 1) % 20 == 0:
                print(f"{kill + 1} of {kills} kills", file=sys.stderr, flush=True)
        time.sleep(2)
        stop.set()
        for process in processes:
            process.join(180)
        failed = [process for process in processes if process.exitcode != 0]
        if failed:
            sys.exit(f"{len(failed)} clients did not end well (seed {seed})")
        records, committed = read_back(bootstrap)
        broker.stop()
        faults, acked = check(journals, records)
        commit_faults, commit_count = check_commits(commits, committed)
        faults += commit_faults
        total = sum(map(len, records.values()))
        print(f"seed {seed}: {kills} kills, {acked} records and {commit_count} commits acknowledged, "
              f"{total} records read back, {len(faults)} faults")
        for fault in faults[:20]:
            print(fault)
        if acked < kills * 50:
            sys.exit("too few records were acknowledged for the check to mean anything")
        sys.exit(1 if faults else 0)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        broker.kill()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
