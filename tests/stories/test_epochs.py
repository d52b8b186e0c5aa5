"""A consumer validates its epoch after a restart (OffsetForLeaderEpoch, KIP-320): no record is skipped."""

import pytest
from confluent_kafka import Consumer, TopicPartition

from records import create, poll_values, send


@pytest.mark.parametrize("reset", ["latest", "earliest", "none"])
def test_a_group_goes_on_where_older_records_were_deleted(broker, java, reset):
    admin = create(broker, "t")
    send(broker, "t", ["m1", "m2", "m3"])
    first = java("Consume", broker.kafka, "t", "g", "earliest", 3, 60).ended(90)
    assert [line["value"] for line in first if "value" in line] == ["m1", "m2", "m3"]

    assert broker.stop() == 0
    broker.start()
    send(broker, "t", ["m4", "m5", "m6"])
    partition = TopicPartition("t", 0, 3)
    admin.delete_records([partition])[partition].result(30)

    again = java("Consume", broker.kafka, "t", "g", reset, 3, 20).ended(60)
    assert not [line for line in again if "error" in line]
    assert [line["value"] for line in again if "value" in line] == ["m4", "m5", "m6"]


def test_an_idle_consumer_of_an_empty_queue_gets_what_is_sent_before_it_reconnects(broker):
    create(broker, "t")
    assigned = []
    consumer = Consumer({
        "bootstrap.servers": broker.kafka, "group.id": "g", "auto.offset.reset": "latest", "log_level": 0,
        # The producer below is back before this consumer is.
        "reconnect.backoff.ms": 4000, "reconnect.backoff.max.ms": 8000,
    })
    consumer.subscribe(["t"], on_assign=lambda _, partitions: assigned.extend(partitions))
    while not assigned:
        consumer.poll(0.2)
    assert poll_values(consumer, 1, 3) == [], "nothing was sent yet"

    assert broker.stop() == 0
    poll_values(consumer, 1, 4)
    broker.start()
    send(broker, "t", ["m1", "m2", "m3"])
    received = poll_values(consumer, 3, 30)
    send(broker, "t", ["m4"])
    received += poll_values(consumer, 4 - len(received), 20)
    assert received == ["m1", "m2", "m3", "m4"]
    consumer.close()
