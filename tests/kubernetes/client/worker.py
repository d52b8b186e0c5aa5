"""A consumer as an application would write it: takes work, takes its time, says what it has done.

Environment: BOOTSTRAP, TOPIC, GROUP; RATE, messages a second this process can do (0: no limit);
DONE, a topic that receives the value of each message that was processed; DOWNSTREAM, a rate that all
workers share (each gets its part by the number of partitions it holds of PARTITIONS); RESET, where a
group without a commit begins (none: it fails).
"""

import os
import signal
import sys
import time

from kafka import KafkaConsumer, KafkaProducer

bootstrap, topic, group = (os.environ[name] for name in ("BOOTSTRAP", "TOPIC", "GROUP"))
rate, done = float(os.environ.get("RATE", "0")), os.environ.get("DONE")
downstream, partitions = float(os.environ.get("DOWNSTREAM", "0")), int(os.environ.get("PARTITIONS", "12"))

stopping = False


def stop(*_):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
consumer = KafkaConsumer(
    topic,
    bootstrap_servers=bootstrap,
    group_id=group,
    enable_auto_commit=False,
    auto_offset_reset=os.environ.get("RESET", "none"),
    max_poll_records=20,
    session_timeout_ms=10_000,
    heartbeat_interval_ms=1_000,
)
producer = KafkaProducer(bootstrap_servers=bootstrap) if done else None
while not stopping:
    polled = consumer.poll(timeout_ms=200)
    for record in (record for records in polled.values() for record in records):
        limit = downstream * len(consumer.assignment()) / partitions if downstream else rate
        if limit:
            time.sleep(1 / limit)
        if producer:
            producer.send(done, record.value, key=record.key)
    if not polled:
        continue
    # Only what was done is committed: everything that was polled.
    if producer:
        producer.flush()
    try:
        consumer.commit()
    except Exception as error:  # Another worker has the partition now, and does these again.
        print(f"not committed: {error!r}", file=sys.stderr)
consumer.close()
