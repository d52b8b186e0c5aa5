"""Input and output of the clients in the client matrix, and functions for the Python ones.

Orders are one JSON document on standard input. `write`:
    {"bootstrap": "HOST:PORT", "topics": [{"topic": T, "compression": C, "records": [RECORD…]}]}
`read` (in the group, until `count` records of every partition have been received):
    {"bootstrap": "HOST:PORT", "group": G, "partitions": [{"topic": T, "partition": P, "count": N}]}
`read` prints one RECORD per line:
    {"topic", "partition", "offset", "timestamp", "key", "value", "headers": [[name, value]…]}
Keys and values are base64 or null, so that every byte and the difference between null and empty are preserved.
"""

import base64
import json
import sys


def orders():
    return json.load(sys.stdin)


def decoded(text):
    return None if text is None else base64.b64decode(text)


def encoded(data):
    return None if data is None else base64.b64encode(bytes(data)).decode()


def headers_of(record):
    return [(name, decoded(value)) for name, value in record["headers"]]


def show(topic, partition, offset, timestamp, key, value, headers):
    print(
        json.dumps(
            {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "timestamp": timestamp,
                "key": encoded(key),
                "value": encoded(value),
                "headers": [[name, encoded(content)] for name, content in headers or []],
            }
        )
    )


class Outstanding:
    """Records that a reader still has to receive, by topic and partition."""

    def __init__(self, partitions):
        self.left = {(p["topic"], p["partition"]): p["count"] for p in partitions if p["count"]}

    def topics(self):
        return sorted({topic for topic, _ in self.left})

    def seen(self, topic, partition):
        self.left[topic, partition] -= 1
        if not self.left[topic, partition]:
            del self.left[topic, partition]

    def __bool__(self):
        return bool(self.left)
