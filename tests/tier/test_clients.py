"""Each Kafka client of tests/clients reads the same records wherever they are: in the bucket, in segments, in memory.

Every client writes a topic, everything moves to the bucket, and it writes more: so much that some of it becomes a segment,
and a little that stays in memory. Then each client reads all topics. The normal form has one compression for each
writer, the long form has all.
"""

import base64
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import IS_LONG
from harness import MIB, MOVED, check_by_program, offsets
from stores import SERVERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))
import matrix  # noqa: E402

# A JSON object from a client's name to its command.
COMMANDS = json.loads(os.environ.get("CLIENT_COMMANDS", "{}"))
# More than a partition keeps in memory, and with any compression.
LARGE_RECORDS, LARGE_BYTES = 20, 100_000
# Some clients send everything that they are given for a partition as one batch.
RECORDS_AT_ONCE = 8


def kinds_of(position, writer):
    if IS_LONG:
        return matrix.kinds_of(writer)
    return [matrix.COMPRESSIONS[position % len(matrix.COMPRESSIONS)]]


def later_records(start_ms):
    """Those that stay at the broker: first the large ones, and then some for each partition, together."""
    source = random.Random(start_ms)
    large = [matrix.record(1, b"large %d" % at, base64.b64encode(source.randbytes(LARGE_BYTES * 3 // 4)))
             for at in range(LARGE_RECORDS)]
    small = [matrix.record(at // 4, b"last %d" % at, b"in memory") for at in range(4 * matrix.PARTITIONS)]
    return [dict(record, timestamp=start_ms + at) for at, record in enumerate(large + small)]


def portions(part, records):
    """The orders of one part: the records together, or a few at a time where they are large."""
    at_once = RECORDS_AT_ONCE if part else len(records)
    return [records[at:at + at_once] for at in range(0, len(records), at_once)]


class Written:
    """What the clients wrote: orders in two parts, and what every reader has to find."""

    def __init__(self, bootstrap):
        self.bootstrap, self.expected, self.failures = bootstrap, {}, []
        self.start_ms = int(time.time() * 1000) - 3_600_000
        self.kinds = {writer: kinds_of(at, writer) for at, writer in enumerate(COMMANDS)}
        self.parts = {writer: [self.of(writer), {kind: later_records(self.start_ms + 1_000_000) for kind in kinds}]
                      for writer, kinds in self.kinds.items()}

    def of(self, writer):
        of_kind = {kind: matrix.records_for(writer, self.start_ms) for kind in self.kinds[writer]}
        if matrix.NULL_HEADER in of_kind:
            of_kind[matrix.NULL_HEADER] = matrix.null_header_records(self.start_ms)
        return of_kind

    def write(self, part):
        def one(writer):
            orders = [{"topic": matrix.topic_of(writer, kind), "records": some,
                       "compression": "none" if kind == matrix.NULL_HEADER else kind}
                      for kind, records in self.parts[writer][part].items() for some in portions(part, records)]
            _, wrong, _ = matrix.attempt(
                matrix.run, COMMANDS[writer], "write", {"bootstrap": self.bootstrap, "topics": orders})
            return f"{writer} cannot write part {part}: {wrong}" if wrong else None

        with ThreadPoolExecutor(2) as pool:
            self.failures += filter(None, pool.map(one, COMMANDS))

    def expect(self):
        span = (self.start_ms, int(time.time() * 1000) + 1000)
        for writer, kinds in self.kinds.items():
            for kind in kinds:
                records = [record for part in self.parts[writer] for record in part[kind]]
                self.expected[writer, kind] = matrix.expected_of(writer, kind, records, span)

    def topics(self):
        return [matrix.topic_of(writer, kind) for writer, kinds in self.kinds.items() for kind in kinds]


def reading(written, reader):
    """What is wrong with what a client reads, and how many topics are equal."""
    expected = {(writer, kind): of for (writer, kind), of in written.expected.items() if matrix.can_read(reader, kind)}
    found, wrong, seconds = matrix.attempt(matrix.read_all, reader, COMMANDS[reader], written.bootstrap, expected)
    if wrong:
        return [f"{reader} cannot read: {wrong}"], 0
    said = [(writer, kind, matrix.differences(reader, of, found)) for (writer, kind), of in expected.items()]
    print(f"{reader:<14} reads: {seconds:.1f} s")
    return ([f"{writer} -> {reader}, {kind}: {text}" for writer, kind, text in said if text],
            sum(text is None for _, _, text in said))


@pytest.mark.waits
@pytest.mark.skipif(not COMMANDS, reason="CLIENT_COMMANDS names no clients")
@pytest.mark.parametrize("server_name", sorted(SERVERS))
def test_o4_each_client_reads_across_bucket_segments_and_memory(start_cluster, note, server_name):
    # The cache is small, so that the readers share less of it.
    cluster = start_cluster(settings={"ropewalk.tier.cache.bytes": 8 * MIB})
    written = Written(cluster.bootstrap)
    for topic in written.topics():
        cluster.create(topic, MOVED, matrix.PARTITIONS)
    written.write(0)
    assert not written.failures, written.failures
    for topic in written.topics():
        cluster.wait_until_moved(topic, matrix.PARTITIONS)
        cluster.alter(topic, {"remote.log.copy.disable": "true"})
    written.write(1)
    assert not written.failures, written.failures
    written.expect()
    borders = [cluster.offset(topic, offsets.EARLIEST_LOCAL, 1) for topic in written.topics()]
    assert all(border > 0 for border in borders), f"some records are not in the bucket only: {borders}"
    segments = [file for file in cluster.member.data.glob("**/*.log") if file.stat().st_size > MIB // 2]
    assert len(segments) >= len(written.topics()), f"{len(segments)} partitions have a segment"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda reader: reading(written, reader), COMMANDS))
    failures = [text for wrong, _ in outcomes for text in wrong]
    assert not failures, "\n".join(failures[:20])
    read_bytes = cluster.member.metric("ropewalk_tier_read_bytes_total")
    assert read_bytes > 0
    check_by_program(cluster)
    note(f"{sum(equal for _, equal in outcomes)} (writer, reader, kind) equal, {len(COMMANDS)} clients, "
         f"{read_bytes / MIB:.1f} MiB read from the bucket")
