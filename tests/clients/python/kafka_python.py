"""kafka-python in the client matrix; records.py describes the orders."""

import sys

from kafka import KafkaConsumer, KafkaProducer

from records import Outstanding, decoded, headers_of, orders, show


def write(order):
    for topic in order["topics"]:
        compression = None if topic["compression"] == "none" else topic["compression"]
        producer = KafkaProducer(
            bootstrap_servers=order["bootstrap"], acks="all", compression_type=compression, linger_ms=20
        )
        sent = [
            producer.send(
                topic["topic"],
                key=decoded(r["key"]),
                value=decoded(r["value"]),
                headers=headers_of(r),
                partition=r["partition"],
                timestamp_ms=r["timestamp"],
            )
            for r in topic["records"]
        ]
        producer.flush(30)
        for future in sent:
            future.get(30)
        producer.close()


def read(order):
    left = Outstanding(order["partitions"])
    consumer = KafkaConsumer(
        *left.topics(),
        bootstrap_servers=order["bootstrap"],
        group_id=order["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    while left:
        for records in consumer.poll(1000).values():
            for r in records:
                show(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
                left.seen(r.topic, r.partition)
    consumer.commit()
    consumer.close()


{"write": write, "read": read}[sys.argv[1]](orders())
