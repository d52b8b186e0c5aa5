"""Work that keeps all processors busy: processes that only count, batches that decompress to hundreds of mebibytes,
batches that the broker compresses again, and consumers that read everything from the beginning.

The bombs have a topic of their own, which no check reads.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import struct
import threading
import time
import urllib.request
import zlib

import crc32c
import zstandard
from confluent_kafka.admin import AdminClient, NewTopic
from elections import elected, moves
from history import now
from metadata import exactly, text
from report import Event, progress
from waiting import wait_for

HOG_S = 60
# For each processor.
COUNTERS = 2
# To each broker, of each kind.
BOMBERS, READERS = 3, 4
PARTITIONS = 6
MIB = 1 << 20
# A batch may decompress to 256 MiB; what is larger is refused when so much is decompressed.
ACCEPTED_BYTES, REFUSED_BYTES, RECOMPRESSED_BYTES = 240 * MIB, 320 * MIB, 32 * MIB
GZIP, ZSTD = 1, 4
API_PRODUCE, API_FETCH = 0, 1
# How long nobody is elected before the hogs begin, and until when that has to be.
CALM_S, CALM_S_MAX = 5, 90
PROCESSES = multiprocessing.get_context("spawn")


def varint(number):
    """Kafka's signed varint."""
    number, out = number << 1 ^ number >> 63, bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def records(count, value):
    for at in range(count):
        body = b"\0" + varint(0) + varint(at) + varint(-1) + varint(len(value)) + value + varint(0)
        yield varint(len(body)) + body


def compressor(codec):
    if codec == GZIP:
        return zlib.compressobj(9, zlib.DEFLATED, 31)
    return zstandard.ZstdCompressor(level=1).compressobj()


def batch(codec, size_bytes):
    """A record batch of zeros that decompresses to about so many bytes."""
    count, packed = size_bytes // MIB, compressor(codec)
    body = b"".join([*(packed.compress(record) for record in records(count, bytes(MIB - 32))), packed.flush()])
    after_crc = struct.pack(">hiqqqhii", codec, count - 1, 0, 0, -1, -1, -1, count) + body
    after_length = struct.pack(">ibI", -1, 2, crc32c.crc32c(after_crc)) + after_crc
    return struct.pack(">qi", 0, len(after_length)) + after_length


def frame(api, version, body):
    body = struct.pack(">hhi", api, version, 1) + text("hog") + body
    return struct.pack(">i", len(body)) + body


def produce(topic, partition, records):
    body = struct.pack(">hhi", -1, 1, 30_000) + struct.pack(">i", 1) + text(topic)
    return frame(API_PRODUCE, 7, body + struct.pack(">iii", 1, partition, len(records)) + records)


def fetch(topic, partitions):
    body = struct.pack(">iiiib", -1, 0, 1, 50 * MIB, 0) + struct.pack(">i", 1) + text(topic)
    return frame(API_FETCH, 4, body + struct.pack(">i", len(partitions))
                 + b"".join(struct.pack(">iqi", at, 0, 8 * MIB) for at in partitions))


def count_for_ever():
    while True:
        pass


def ask_for_ever(address, requests):
    """Sends the requests over and over, each after the answer to the one before."""
    host, _, port = address.rpartition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 10) as connection:
            connection.settimeout(60)
            while True:
                for request in requests:
                    connection.sendall(request)
                    (size,) = struct.unpack(">i", exactly(connection, 4))
                    while size:
                        size -= len(exactly(connection, min(size, MIB)))
        time.sleep(0.1)


def ask_on_connections(address, kinds):
    """`kinds` are pairs of a number of connections and the requests that each of them sends."""
    threads = [threading.Thread(target=ask_for_ever, args=(address, requests), daemon=True)
               for count, requests in kinds for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def make_topics(cluster, name):
    """A topic for bombs as they are, and one for those that are compressed again."""
    topics = {f"{name}-bombs": "producer", f"{name}-recompressed": "gzip"}
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    new = [NewTopic(topic, PARTITIONS, -1, config={"compression.type": codec}) for topic, codec in topics.items()]
    for made in admin.create_topics(new).values():
        made.result(60)
    for topic in topics:
        cluster.wait_until_whole(topic)
    return list(topics)


def led(cluster, topic):
    """Partitions of the topic by the broker that leads them."""
    by_broker = {}
    for at, partition in cluster.view(topic).topics[topic].items():
        by_broker.setdefault(partition.leader, []).append(at)
    return by_broker


@contextlib.contextmanager
def hogs(cluster, load_topic):
    bombs, recompressed = make_topics(cluster, load_topic)
    refused, accepted = batch(ZSTD, REFUSED_BYTES), batch(GZIP, ACCEPTED_BYTES)
    again = batch(ZSTD, RECOMPRESSED_BYTES)
    processes = [PROCESSES.Process(target=count_for_ever, daemon=True) for _ in range(COUNTERS * os.cpu_count())]
    for node in cluster.nodes:
        of = {topic: led(cluster, topic).get(node.number, [0]) for topic in (bombs, recompressed, load_topic)}
        kinds = [(BOMBERS, [produce(bombs, of[bombs][0], refused)]),
                 (BOMBERS, [produce(bombs, of[bombs][0], accepted)]),
                 (BOMBERS, [produce(recompressed, of[recompressed][0], again)]),
                 (READERS, [fetch(load_topic, of[load_topic])])]
        processes.append(PROCESSES.Process(target=ask_on_connections, args=(node.kafka, kinds), daemon=True))
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def leaders(cluster):
    """Broker and term of each shard's leader, as the first broker knows them."""
    with urllib.request.urlopen(f"http://{cluster.nodes[0].admin}/v1/cluster", timeout=10) as answer:
        return {shard["shard"]: (shard.get("leader"), shard.get("term")) for shard in json.load(answer)["shards"]}


def wait_until_calm(cluster):
    """Waits until nobody was elected for CALM_S: leaders are moved after a broker has joined or come back."""
    seen, since = leaders(cluster), time.monotonic()

    def moving():
        nonlocal seen, since
        found = leaders(cluster)
        if found != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since < CALM_S and "leaders change"

    wait_for("nobody is elected", CALM_S_MAX, moving, every=0.5)
    return seen


def hog(run, seconds):
    """All processors are busy for so long, and no broker loses or gets a leadership, except that the catalog balances."""
    before = wait_until_calm(run.cluster)
    moved = moves(run.cluster)
    events = [Event(now(), "all processors are busy")]
    with hogs(run.cluster, run.load.topic):
        time.sleep(seconds)
        after = leaders(run.cluster)
    events.append(Event(now(), "the processors are free"))
    moved = moves(run.cluster) - moved
    changed = elected(before, after, moved)
    progress(f"{len(changed)} of {len(before)} leaders changed in {seconds} s, without {moved.total()} that were moved")
    if changed:
        raise AssertionError(f"leaders changed while the processors were busy (broker, term): {changed}")
    run.go_on(events[-1].at, "the processors are free")
    run.whole()
    return events
