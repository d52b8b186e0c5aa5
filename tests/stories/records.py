"""Functions that write and read records in the stories."""

import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


def create(broker, topic, partitions=1, **config):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30)
    return admin


def send(broker, topic, values, partition=0, **config):
    """Writes the values in order and returns when all are acknowledged."""
    failed = []
    producer = Producer({"bootstrap.servers": broker.kafka, "acks": "all", "linger.ms": 0, **config})
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: error and failed.append(error))
    assert producer.flush(60) == 0
    assert not failed, failed[0]


def read_all(broker, topic, partition=0, seconds_max=60):
    """The values of a partition from its start to its end now."""
    consumer = Consumer({"bootstrap.servers": broker.kafka, "group.id": "read-all", "enable.auto.commit": False})
    start, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
    consumer.assign([TopicPartition(topic, partition, start)])
    values, position, deadline = [], start, time.monotonic() + seconds_max
    while position < end:
        assert time.monotonic() < deadline, f"{topic}/{partition} cannot be read beyond {position}; its end is {end}"
        for message in consumer.consume(10_000, timeout=0.5):
            assert not message.error(), message.error()
            values.append(message.value().decode())
            position = message.offset() + 1
    consumer.close()
    return values


def poll_values(consumer, count, seconds_max):
    """The values of the next `count` records, or of those that arrive in time."""
    values, deadline = [], time.monotonic() + seconds_max
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            values.append(message.value().decode())
    return values
