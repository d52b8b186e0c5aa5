"""Fetch sessions (KIP-227): a consumer of many partitions names them once, with the clients that use sessions."""

import time

import pytest
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPythonPartition

from records import create, send

PARTITIONS = 200


def python_values(broker, count):
    """The values that kafka-python reads until it has used its session, and the most partitions in sessions meanwhile."""
    consumer = KafkaConsumer(bootstrap_servers=broker.kafka, auto_offset_reset="earliest", group_id=None)
    consumer.assign([KafkaPythonPartition("wide", partition) for partition in range(PARTITIONS)])
    values, sessions, deadline = [], 0, time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(values) >= count and broker.metric("ropewalk_fetch_session_requests_total") > 0:
            break
        for records in consumer.poll(timeout_ms=500).values():
            values += [record.value.decode() for record in records]
        sessions = max(sessions, broker.metric("ropewalk_fetch_session_partitions"))
    consumer.close()
    return values, sessions


def test_a_consumer_of_many_partitions_uses_a_session(broker, java):
    create(broker, "wide", PARTITIONS)
    sent = []
    for partition in range(0, PARTITIONS, 7):
        sent += [f"{partition}-{number}" for number in range(3)]
        send(broker, "wide", sent[-3:], partition=partition)
    values, partitions = python_values(broker, len(sent))
    assert sorted(values) == sorted(sent)
    assert partitions == PARTITIONS
    before = broker.metric("ropewalk_fetch_session_requests_total")
    assert before > 0

    consumer = java("Consume", broker.kafka, "wide", "readers", "earliest", len(sent) + 1, 60)
    consumer.wait_for(lambda line: len(consumer.printed()) >= len(sent), 40)
    assert broker.metric("ropewalk_fetch_session_requests_total") > before
    # The session waits, and only one partition changes.
    sent.append("late")
    send(broker, "wide", ["late"], partition=PARTITIONS - 1)
    lines = consumer.ended(40)
    assert sorted(line["value"] for line in lines) == sorted(sent)


@pytest.mark.parametrize("slots", [0, 1])
def test_a_consumer_without_room_for_its_session_reads_on(make_broker, java, slots):
    broker = make_broker([f"max.incremental.fetch.session.cache.slots={slots}"])
    create(broker, "wide", PARTITIONS)
    sent = [str(partition) for partition in range(PARTITIONS)]
    for partition in range(PARTITIONS):
        send(broker, "wide", [str(partition)], partition=partition)
    consumers = [java("Consume", broker.kafka, "wide", group, "earliest", len(sent), 60) for group in ("a", "b")]
    for consumer in consumers:
        assert sorted(line["value"] for line in consumer.ended(60)) == sorted(sent)
    assert broker.metric("ropewalk_fetch_sessions") <= slots
