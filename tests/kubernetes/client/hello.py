"""Sends one message and receives it: `hello.py BOOTSTRAP TOPIC GROUP`."""

import sys
import time

from kafka import KafkaConsumer, KafkaProducer

bootstrap, topic, group = sys.argv[1:]
text = f"hello at {time.time()}".encode()
producer = KafkaProducer(bootstrap_servers=bootstrap)
sent = producer.send(topic, text).get(timeout=30)
print(f"sent to {topic} [{sent.partition}] at {sent.offset}")
for message in KafkaConsumer(
    topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=30_000
):
    if message.value == text:
        print(f"received: {message.value.decode()}")
        sys.exit(0)
sys.exit("the message was not received")
