"""A member of a group with librdkafka, until it is killed: prints JSON lines.

    member.py BOOTSTRAP TOPIC GROUP INSTANCE_ID SESSION_MS
"""

import json
import sys

from confluent_kafka import Consumer


def show(**line):
    print(json.dumps(line), flush=True)


def main(bootstrap, topic, group, instance, session_ms):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "session.timeout.ms": int(session_ms), "log_level": 0,
        "auto.offset.reset": "earliest", "auto.commit.interval.ms": 200, "reconnect.backoff.max.ms": 200,
        "heartbeat.interval.ms": 300,
        **({"group.instance.id": instance} if instance != "-" else {}),
    })
    consumer.subscribe(
        [topic],
        on_assign=lambda _, partitions: show(assigned=[p.partition for p in partitions]),
        on_revoke=lambda _, partitions: show(revoked=[p.partition for p in partitions]),
    )
    while True:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            show(error=message.error().str(), fatal=message.error().fatal())
        else:
            show(value=message.value().decode(), partition=message.partition())


if __name__ == "__main__":
    main(*sys.argv[1:])
