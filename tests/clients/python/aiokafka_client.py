"""aiokafka in the client matrix; records.py describes the orders."""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from records import Outstanding, decoded, headers_of, orders, show


async def write(order):
    for topic in order["topics"]:
        compression = None if topic["compression"] == "none" else topic["compression"]
        producer = AIOKafkaProducer(
            bootstrap_servers=order["bootstrap"], enable_idempotence=True, compression_type=compression, linger_ms=20
        )
        await producer.start()
        sent = [
            await producer.send(
                topic["topic"],
                key=decoded(r["key"]),
                value=decoded(r["value"]),
                headers=headers_of(r),
                partition=r["partition"],
                timestamp_ms=r["timestamp"],
            )
            for r in topic["records"]
        ]
        await asyncio.gather(*sent)
        await producer.stop()


async def read(order):
    left = Outstanding(order["partitions"])
    consumer = AIOKafkaConsumer(
        *left.topics(),
        bootstrap_servers=order["bootstrap"],
        group_id=order["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    while left:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            for r in records:
                show(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
                left.seen(r.topic, r.partition)
    await consumer.commit()
    await consumer.stop()


asyncio.run({"write": write, "read": read}[sys.argv[1]](orders()))
