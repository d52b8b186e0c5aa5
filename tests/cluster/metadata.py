"""What one broker says of its cluster: a request of the Kafka protocol to exactly that broker.

Client libraries ask whichever broker they like, and merge the answers.
"""

import socket
import struct
from dataclasses import dataclass, field

API_METADATA, VERSION = 3, 1


@dataclass
class Partition:
    leader: int
    replicas: list
    in_sync: list


@dataclass
class View:
    """`brokers` are addresses by id; `controller` is -1 if there is none; `topics` holds those without an error."""

    brokers: dict
    controller: int
    topics: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)


def ask(address, topics, timeout=2.0):
    """The view of the broker at HOST:PORT. Raises OSError if it does not answer in time."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(request(topics))
        (size,) = struct.unpack(">i", exactly(connection, 4))
        return parse(exactly(connection, size))


def request(topics):
    body = struct.pack(">hhi", API_METADATA, VERSION, 1) + text("cluster-test")
    body += struct.pack(">i", len(topics)) + b"".join(text(topic) for topic in topics)
    return struct.pack(">i", len(body)) + body


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def exactly(connection, count):
    received = b""
    while len(received) < count:
        some = connection.recv(count - len(received))
        if not some:
            raise ConnectionError("the broker closed the connection before its answer was complete")
        received += some
    return received


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        (value,) = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return value

    def text(self):
        length = self.number("h")
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def list(self, item):
        return [item() for _ in range(self.number("i"))]


def parse(answer):
    reader = Reader(answer)
    if (correlation := reader.number("i")) != 1:
        raise ConnectionError(f"the answer is to request {correlation}, not to 1")

    def broker():
        number, host, port = reader.number("i"), reader.text(), reader.number("i")
        reader.text()  # The rack.
        return number, f"{host}:{port}"

    def partition():
        _error, number, leader = reader.number("h"), reader.number("i"), reader.number("i")
        ids = [reader.list(lambda: reader.number("i")) for _ in range(2)]
        return number, Partition(leader, *ids)

    view = View(dict(reader.list(broker)), reader.number("i"))
    for _ in range(reader.number("i")):
        error, name, _internal = reader.number("h"), reader.text(), reader.number("b")
        partitions = dict(reader.list(partition))
        if error:
            view.errors[name] = error
        else:
            view.topics[name] = partitions
    return view
