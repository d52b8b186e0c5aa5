"""Compaction and retention while clients read and rely on them."""

import os
import random
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from records import create


def set_policy(admin, topic, **config):
    entries = [ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
               for key, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(30)


def read_keys(broker, topic):
    """The last value of each key, and the offsets, from one read of the whole partition."""
    consumer = Consumer({"bootstrap.servers": broker.kafka, "group.id": "keys", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    last, offsets, deadline = {}, [], time.monotonic() + 60
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            break
        offsets.append(message.offset())
        last[message.key().decode()] = message.value() and message.value().decode()
    consumer.close()
    return last, offsets


def test_a_policy_that_changes_costs_no_reader_anything(broker):
    admin = create(broker, "t", 1, **{
        "cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"})
    model, stop, faults = {}, threading.Event(), []

    def read():
        while not stop.is_set():
            _, offsets = read_keys(broker, "t")
            if offsets != sorted(set(offsets)):
                faults.append("offsets repeat or go back")

    reader = threading.Thread(target=read)
    reader.start()
    rng = random.Random(1)
    try:
        for policy in ("compact", "delete", "compact,delete", "compact"):
            set_policy(admin, "t", cleanup_policy=policy)
            for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
                producer = Producer({"bootstrap.servers": broker.kafka, "compression.type": codec, "linger.ms": 10})
                for n in range(300):
                    key, value = f"k{rng.randrange(20)}", f"{policy}-{codec}-{n}" + "x" * 500
                    model[key] = value
                    producer.produce("t", value, key, partition=0)
                assert producer.flush(30) == 0
                time.sleep(0.5)
    finally:
        stop.set()
        reader.join()
    assert not faults, faults[0]
    broker.kill()
    broker.start()
    assert read_keys(broker, "t")[0] == model


def test_a_deleted_value_of_a_quiet_compacted_queue_is_removed(broker):
    create(broker, "t", 1, **{
        "cleanup.policy": "compact", "max.compaction.lag.ms": "2000", "segment.ms": "1000", "delete.retention.ms": "0"})
    producer = Producer({"bootstrap.servers": broker.kafka, "linger.ms": 0})
    producer.produce("t", "secret", "user", partition=0)
    producer.produce("t", None, "user", partition=0)
    assert producer.flush(10) == 0

    def stored():
        consumer = Consumer({"bootstrap.servers": broker.kafka, "group.id": "raw", "enable.partition.eof": True})
        consumer.assign([TopicPartition("t", 0, 0)])
        values = []
        while (message := consumer.poll(5)) is not None and not message.error():
            values.append(message.value())
        consumer.close()
        return values

    deadline = time.monotonic() + 90
    while b"secret" in stored():
        assert time.monotonic() < deadline, "what was deleted can still be read"
        producer.produce("t", "tick", "tick", partition=0)
        assert producer.flush(10) == 0
        time.sleep(1)


def test_a_faust_table_is_recovered_from_its_changelog(broker, program, tmp_path):
    def worker():
        return program(os.environ["STORIES_FAUST"], os.path.join(os.path.dirname(__file__), "table.py"), broker.kafka, tmp_path / "faust")

    create(broker, "numbers", 1)
    # Its changelog is empty.
    first = worker()
    assert first.wait_for(lambda line: "ready" in line, 60)["ready"] == {}
    producer = Producer({"bootstrap.servers": broker.kafka, "linger.ms": 5})
    for n in range(3000):
        producer.produce("numbers", f'"{n}"', str(n % 10), partition=0)
        producer.poll(0)
    assert producer.flush(30) == 0
    first.wait_for(lambda line: line.get("value") == "2999", 60)
    # A worker without a commit processes records again and prints an older table.
    committed = Consumer({"bootstrap.servers": broker.kafka, "group.id": "story", "enable.auto.commit": False})
    end = time.monotonic() + 30
    while committed.committed([TopicPartition("numbers", 0)], 10)[0].offset < 2999:
        assert time.monotonic() < end, "nothing is committed"
        time.sleep(0.2)
    committed.close()
    first.kill()
    wanted = {str(key): str(2990 + key) for key in range(10)}
    # After compaction.
    admin = create(broker, "other")
    set_policy(admin, "story-last-changelog", segment_ms="1000", min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="1000")
    time.sleep(5)
    second = worker()
    assert second.wait_for(lambda line: "ready" in line, 60)["ready"] == wanted
    second.kill()
    # After retention removed everything.
    partition = TopicPartition("story-last-changelog", 0, -1)
    set_policy(admin, "story-last-changelog", cleanup_policy="compact,delete")
    admin.delete_records([partition])[partition].result(30)
    third = worker()
    assert third.wait_for(lambda line: "ready" in line, 60)["ready"] == {}
