"""A consumer like an application: receives messages, takes time for each, and reports what it processed.

Environment: BOOTSTRAP, TOPIC, GROUP; RATE, messages per second of this process (0: no limit);
DONE, a topic that receives the value of each processed message; DOWNSTREAM, a rate that all
workers share (in proportion to their number of partitions of PARTITIONS); RESET, the start position of a
group without a commit (none: it fails).
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
    # Everything that was polled is processed, so the whole position is committed.
    if producer:
        producer.flush()
    try:
        consumer.commit()
    except Exception as error:  # Another worker has the partition now and processes these again.
        print(f"not committed: {error!r}", file=sys.stderr)
consumer.close()
