"""A path that no longer takes large packets, and takes them again.

Packets above a size vanish where they arrive, and nobody is told: routers on such a path send no ICMP. Batches that the
kernel passes over the loopback device in one piece would vanish as a whole, so it has to split them first.
"""

import multiprocessing
import re
import subprocess
import time
import urllib.request

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from history import now
from report import Event, progress
from waiting import wait_for

# The largest IP packet that passes: the UDP payload that every path takes, with the headers of IPv4 and UDP.
SMALLEST_PAYLOAD = 1232
SMALLEST_PACKET = SMALLEST_PAYLOAD + 28
RECORD_BYTES = 100_000
PARTITIONS = 6
MEASURE_S = 10
# The size is found within seconds. After a fall it is searched for again after 10 s.
FOUND_S_MAX, FALLEN_S_MAX = 60, 60
# The machine is busy with other things now and then.
SHARE_THAT_COMES_BACK = 0.5
PROCESSES = multiprocessing.get_context("spawn")


def large_records(bootstrap, topic, acknowledged):
    """Sends large records as fast as they are acknowledged, and counts their bytes."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.kbytes": 16_384,
                         "acks": "all", "enable.idempotence": True})
    value = bytes(RECORD_BYTES)

    def count(error, _):
        if error is None:
            acknowledged.value += RECORD_BYTES

    while True:
        try:
            producer.produce(topic, value, on_delivery=count)
            producer.poll(0)
        except BufferError:
            producer.poll(0.1)


class Measured:
    """The bytes of large records that are acknowledged while the context lasts."""

    def __init__(self, cluster, topic):
        self.cluster, self.topic = cluster, topic
        self.acknowledged = PROCESSES.Value("q", 0, lock=False)
        arguments = (cluster.bootstrap, topic, self.acknowledged)
        self.process = PROCESSES.Process(target=large_records, args=arguments, daemon=True)

    def __enter__(self):
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        # Old records are removed, so that the disk does not fill.
        config = {"retention.bytes": str(64 << 20), "segment.bytes": str(16 << 20)}
        new = NewTopic(self.topic, PARTITIONS, -1, config=config)
        admin.create_topics([new])[self.topic].result(60)
        self.cluster.wait_until_whole(self.topic)
        self.process.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def rate(self):
        """MB acknowledged in a second, over the next seconds."""
        before = self.acknowledged.value
        time.sleep(MEASURE_S)
        return (self.acknowledged.value - before) / MEASURE_S / 1e6


def metric(node, name):
    """The values of a metric of one broker for the class raft, by the other broker."""
    with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf'^{name}{{broker="(\d+)",class="raft"}} (\S+)$', text, re.MULTILINE)
    return {int(broker): float(value) for broker, value in found}


def of_all(cluster, name):
    return {(node.number, other): value for node in cluster.nodes for other, value in metric(node, name).items()}


def sizes(cluster):
    return of_all(cluster, "ropewalk_peer_mtu_bytes")


def not_all(cluster, holds):
    return [f"{pair}: {size:.0f}" for pair, size in sizes(cluster).items() if not holds(size)]


def set_segments(count):
    subprocess.run(["ip", "link", "set", "dev", "lo", "gso_max_segs", str(count)], check=True, capture_output=True)


def black_hole(run, _):
    """Large packets vanish and pass again: the metrics show it, and the throughput comes back by itself."""
    cluster = run.cluster
    set_segments(1)
    events = []
    with Measured(cluster, f"{run.load.topic}-large") as measured:
        is_larger = lambda size: size > SMALLEST_PAYLOAD  # noqa: E731
        wait_for("larger packets are used", FOUND_S_MAX, lambda: not_all(cluster, is_larger), every=0.5)
        before, holes = measured.rate(), sum(of_all(cluster, "ropewalk_peer_black_holes_total").values())
        events.append(Event(now(), "large packets vanish"))
        run.network.swallow(SMALLEST_PACKET)
        run.go_on(events[-1].at, "large packets vanish")

        def unnoticed():
            found = sum(of_all(cluster, "ropewalk_peer_black_holes_total").values())
            return found <= holes and "ropewalk_peer_black_holes_total did not rise"

        wait_for("the fall is shown", FALLEN_S_MAX, unnoticed, every=0.5)
        within = measured.rate()
        events.append(Event(now(), "large packets pass again"))
        run.network.heal()
        wait_for("larger packets are used again", FOUND_S_MAX, lambda: not_all(cluster, is_larger), every=0.5)
        after = measured.rate()
    progress(f"{before:.1f} MB/s with large packets, {within:.1f} without, {after:.1f} with them again; sizes {sizes(cluster)}")
    if not within or after < before * SHARE_THAT_COMES_BACK:
        raise AssertionError(f"the throughput did not come back: {before:.1f}, {within:.1f}, then {after:.1f} MB/s")
    run.go_on(events[-1].at, "large packets pass again")
    run.whole()
    return events
