"""Offsets as one broker says them, by a request of the Kafka protocol to exactly that broker: client libraries do not
know all of these special timestamps."""

import socket
import struct

import metadata

API_LIST_OFFSETS, VERSION = 2, 9
LATEST, EARLIEST, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -4, -5
NO_TAGS = b"\0"


class NoAnswer(OSError):
    """The partition has an error, or the broker that was asked does not lead it."""


def ask(address, topic, partition, timestamp, timeout=5.0):
    """The offset for a timestamp, or for one of the special ones above."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(request(topic, partition, timestamp))
        (size,) = struct.unpack(">i", metadata.exactly(connection, 4))
        return parse(metadata.exactly(connection, size), len(topic))


def request(topic, partition, timestamp):
    header = struct.pack(">hhih", API_LIST_OFFSETS, VERSION, 1, 4) + b"test" + NO_TAGS
    of_partition = struct.pack(">iiq", partition, -1, timestamp) + NO_TAGS
    of_topic = compact(len(topic)) + topic.encode() + compact(1) + of_partition + NO_TAGS
    body = struct.pack(">ib", -1, 0) + compact(1) + of_topic + NO_TAGS
    return struct.pack(">i", len(header + body)) + header + body


def compact(count):
    """A length as an unsigned varint, plus one."""
    value, out = count + 1, b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def parse(answer, name_bytes):
    # Correlation id and its tags, throttle time, one topic with its name, one partition.
    at = 4 + 1 + 4 + 1 + len(compact(name_bytes)) + name_bytes + 1
    _partition, error, _timestamp, offset, _epoch = struct.unpack_from(">ihqqi", answer, at)
    if error:
        raise NoAnswer(f"error {error}")
    return offset
