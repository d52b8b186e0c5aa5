"""confluent-kafka-python in the client matrix; records.py describes the orders."""

import sys

from confluent_kafka import Consumer, Producer

from records import Outstanding, decoded, headers_of, orders, show


def write(order):
    failures = []

    def delivered(error, _message):
        if error is not None:
            failures.append(error)

    for topic in order["topics"]:
        producer = Producer(
            {
                "bootstrap.servers": order["bootstrap"],
                "enable.idempotence": True,
                "compression.type": topic["compression"],
                "linger.ms": 20,
            }
        )
        for r in topic["records"]:
            producer.produce(
                topic["topic"],
                key=decoded(r["key"]),
                value=decoded(r["value"]),
                headers=headers_of(r),
                partition=r["partition"],
                timestamp=r["timestamp"],
                on_delivery=delivered,
            )
        if producer.flush(30):
            sys.exit("not all records were delivered after 30 s")
    if failures:
        sys.exit(f"not delivered: {failures[0]}")


def read(order):
    left = Outstanding(order["partitions"])
    consumer = Consumer(
        {
            "bootstrap.servers": order["bootstrap"],
            "group.id": order["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(left.topics())
    while left:
        for m in consumer.consume(500, 1):
            if m.error():
                sys.exit(str(m.error()))
            show(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
            left.seen(m.topic(), m.partition())
    consumer.commit(asynchronous=False)
    consumer.close()


{"write": write, "read": read}[sys.argv[1]](orders())
