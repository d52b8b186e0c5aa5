"""The part of Kafka's protocol that is needed to send what no client library sends: oversized frames, many joins.

Field names and versions are those of Kafka's message schemas; all versions here are older than flexible ones.
"""

import socket
import struct


def text(value):
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def data(value):
    return struct.pack(">i", len(value)) + value


def array(items):
    items = list(items)
    return struct.pack(">i", len(items)) + b"".join(items)


class Connection:
    """One connection; each request has its correlation id, and answers are matched to it."""

    def __init__(self, address, seconds_max=60):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), seconds_max)
        self.number = 0

    def send(self, api_key, version, body):
        self.number += 1
        header = struct.pack(">hhi", api_key, version, self.number) + text("story")
        self.socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        return self.number

    def receive(self):
        """The next answer's body; raises EOFError when the broker has closed the connection."""
        size, = struct.unpack(">i", self.exactly(4))
        answer = self.exactly(size)
        assert struct.unpack(">i", answer[:4])[0] == self.number, "an answer out of order"
        return answer[4:]

    def exactly(self, count):
        found = b""
        while len(found) < count:
            try:
                more = self.socket.recv(min(count - len(found), 1 << 20))
            except ConnectionResetError as error:
                raise EOFError("reset") from error
            if not more:
                raise EOFError("closed")
            found += more
        return found

    def call(self, api_key, version, body):
        try:
            self.send(api_key, version, body)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError("closed while sending") from error
        return self.receive()

    def close(self):
        self.socket.close()


def join_group_v1(group, member, metadata, session_ms=30_000, rebalance_ms=10_000):
    return (11, 1, text(group) + struct.pack(">ii", session_ms, rebalance_ms) + text(member) + text("consumer")
            + array([text("range") + data(metadata)]))


def offset_commit_v2(group, topic, partitions, metadata):
    """Commits offset 1 of each of `partitions`, with the same metadata each time."""
    entries = [struct.pack(">iq", partition, 1) + text(metadata) for partition in partitions]
    return 8, 2, text(group) + struct.pack(">i", -1) + text("") + struct.pack(">q", -1) + array([text(topic) + array(entries)])


def create_topics_v2(name, configs):
    entries = [text(key) + text(value) for key, value in configs]
    topic = text(name) + struct.pack(">ih", 1, 1) + array([]) + array(entries)
    return 19, 2, array([topic]) + struct.pack(">ib", 30_000, 0)


def error_of_create_v2(answer, name):
    """After the throttle time, the count of topics and the one name."""
    at = 4 + 4 + 2 + len(name)
    return struct.unpack(">h", answer[at:at + 2])[0]


def error_of_join(answer):
    return struct.unpack(">h", answer[:2])[0]
