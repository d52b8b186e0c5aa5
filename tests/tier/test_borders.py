"""Consumers that cross the borders between memory, segments and bucket while records move."""

import threading
import time

import pytest
from harness import MOVED, SECONDS_MAX, Writer, check_bucket, check_records, offsets, read

TOPIC = "borders"
SECONDS = 12
# Between two kills.
KILL_S = 6


class Reader(threading.Thread):
    """Reads from `begin` on again and again, or follows the end, until the writer has ended; counts what it found."""

    def __init__(self, cluster, writer, follows):
        super().__init__(daemon=True)
        self.cluster, self.writer, self.follows = cluster, writer, follows
        self.is_done, self.count, self.rounds, self.failure = threading.Event(), 0, 0, None

    def run(self):
        try:
            at = 0
            while not self.is_done.is_set():
                end = self.cluster.offset(TOPIC, offsets.LATEST)
                if end > at:
                    found = read(self.cluster, TOPIC, begin=at, end=end)
                    got = [offset for offset, _ in found]
                    assert got == list(range(at, at + len(got))), f"a gap or a repeat from {at} on: {got[:5]}"
                    self.check(found)
                    self.count += len(found)
                    self.rounds += 1
                    at = got[-1] + 1 if self.follows else 0
                time.sleep(0.05)
        except Exception as error:  # noqa: BLE001
            self.failure = error

    def check(self, found):
        for offset, value in found:
            # Its answer may not have arrived yet.
            expected = self.writer.acked.get(offset, value)
            assert value == expected, f"{value[:40]} at {offset} instead of {expected[:40]}"


@pytest.mark.parametrize("kills", [0, pytest.param(10, marks=pytest.mark.soak)])
def test_o4_consumers_cross_borders_while_records_move(start_cluster, note, kills):
    """With kills, the leader of the partition is killed again and again, and starts when the next one leads."""
    cluster = start_cluster(3)
    cluster.create(TOPIC, MOVED)
    writer = Writer(cluster, TOPIC)
    readers = [Reader(cluster, writer, follows) for follows in (True, False, False)]
    for reader in readers:
        reader.start()
    began, borders, killed = time.monotonic(), set(), 0
    while time.monotonic() < began + SECONDS + kills * KILL_S:
        writer.send(60)
        borders.add(cluster.offset(TOPIC, offsets.EARLIEST_LOCAL))
        time.sleep(0.03)
        if killed < kills and time.monotonic() > began + (killed + 1) * KILL_S:
            leader = cluster.leader(TOPIC)
            leader.kill()
            cluster.leader(TOPIC, but=leader)
            leader.start()
            killed += 1
    writer.wait()
    for reader in readers:
        reader.is_done.set()
    for reader in readers:
        reader.join(SECONDS_MAX)
        assert reader.failure is None, reader.failure
        assert not reader.is_alive() and reader.count > 0
    assert len(borders) > 2, f"records moved at {borders} only"
    cluster.wait_until_moved(TOPIC)
    check_records(writer)
    check_bucket(cluster, TOPIC)
    read_bytes = sum(sum(member.metrics("ropewalk_tier_read_bytes_total").values()) for member in cluster.members)
    assert read_bytes > 0
    note(f"{writer.count} records, {len(borders) - 1} moves of the border, readers found "
         f"{[reader.count for reader in readers]} in {[reader.rounds for reader in readers]} rounds")
