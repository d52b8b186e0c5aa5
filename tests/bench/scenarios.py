"""What is measured of a server that speaks Kafka's protocol. Each scenario fills the rows that rows.py lists for it."""

import os
import re
import time

from cgroup import Watch
from clients import Background, NotPossible, java_tool, load
from machine import Usage, drop_page_cache
from rows import BACKLOG_RATE, RATES_MB_PER_S, SHAPES, queues, shape
from summary import knee, window_kib

GIB = 2**30
KIB = 1024
RECORD = 1024
# The topics of most loads: 1 KiB records over 12 partitions.
TWELVE = ["--partitions", 12]


class Run:
    """A round of one server: what scenarios use, and where they put what they measure."""

    def __init__(self, server, form, disk, measured, note):
        self.server, self.form, self.disk, self.measured, self.note = server, form, disk, measured, note

    def usage(self):
        return Usage(self.disk, self.form.quiet_seconds, self.note)

    def produce(self, topic, *arguments, seconds=None):
        return load(self.server, *self.produce_arguments(topic, *arguments, seconds=seconds))

    def produce_arguments(self, topic, *arguments, seconds=None):
        seconds = seconds or self.form.load_seconds
        retain = ["--retain-bytes", self.form.retain_bytes] if self.form.retain_bytes else []
        ring = ["--ring-bytes", self.form.ring_bytes]
        return ["produce", "--topic", topic, *arguments, *retain, *ring, "--seconds", seconds]

    def consume(self, topic, *arguments):
        return load(self.server, "consume", "--topic", topic, *arguments)

    def delete(self, topic, *arguments):
        """Frees the disk for what comes next."""
        load(self.server, "delete", "--topic", topic, *arguments)


def rate(mb_per_s):
    """The arguments of a load of so many MB/s of 1 KiB records."""
    return ["--rate", mb_per_s * 1e6 / RECORD]


def stock(run):
    """Kafka's own ProducerPerformance and ConsumerPerformance."""
    for size, partitions in SHAPES:
        of, topic = shape(size, partitions), f"stock-{size}-{partitions}"
        records = run.form.stock_bytes // size // (4 if size == 100 else 1)
        load(run.server, "create", "--topic", topic, "--partitions", partitions)
        count = ["--topic", topic, "--num-records", records]
        size_and_acks = ["--record-size", size, "--throughput", -1, "--command-property", "acks=all"]
        shown = java_tool("ProducerPerformance", run.server, *count, *size_and_acks)
        per_second, p99 = re.findall(r"([\d.]+) records/sec .*?(\d+) ms 99th", shown)[-1]
        run.measured[f"produce, stock client, {of}"] = float(per_second) * size / 1e6
        run.measured[f"produce p99 at full speed, stock client, {of}"] = float(p99)
        shown = java_tool("ConsumerPerformance", run.server, *count, "--timeout", 60000)
        row = [cell.strip() for cell in shown.strip().splitlines()[-1].split(",")]
        run.measured[f"consume, stock client, {of}"] = float(row[3]) * 1.048576
        run.measured[f"consume, stock client, fetch time only, {of}"] = float(row[8]) * 1.048576
        run.delete(topic)


def native(run):
    """Our load client, which leaves the broker most of the CPU."""
    for size, partitions in SHAPES:
        of, topic = shape(size, partitions), f"native-{size}-{partitions}"
        spread = ["--partitions", partitions]
        batch = ["--record-bytes", size, "--records-per-batch", max(1, 65536 // size)]
        seconds = run.form.held_seconds if size == RECORD else run.form.load_seconds
        usage = run.usage()
        with Watch(run.server.group, run.server.pid()) as watch:
            sent = run.produce(topic, *spread, *batch, seconds=seconds)
        cpu, _, written = usage.end()
        gib = sent["bytes"] / GIB
        run.measured[f"produce, native client, {of}"] = sent["mb_per_s"]
        run.measured[f"CPU to produce, {of}"] = cpu / gib
        if written is not None:
            run.measured[f"device bytes written, {of}"] = written / sent["bytes"]
        usage = run.usage()
        read = run.consume(topic, *spread)
        cpu, *_ = usage.end()
        run.measured[f"consume, native client, {of}"] = read["mb_per_s"]
        run.measured[f"CPU to consume, {of}"] = cpu / (read["bytes"] / GIB)
        if (size, partitions) == (1024, 12):
            run.measured["memory loaded, peak"] = run.server.peak_mib()
            run.measured["memory loaded, anonymous"] = watch.most_mib
            run.measured[f"client's CPU to produce, {of}"] = sent["cpu_s"] / gib
            run.measured[f"client's CPU to consume, {of}"] = read["cpu_s"] / (read["bytes"] / GIB)
        run.delete(topic)
    sent = run.produce("idempotent", *TWELVE, "--idempotent")
    run.measured[f"produce, idempotent producers, {shape(1024, 12)}"] = sent["mb_per_s"]
    run.delete("idempotent")


def fixed_rates(run):
    """The same loads for all servers, with latency counted from when a request was due."""
    for mb_per_s in RATES_MB_PER_S:
        at = f"at {mb_per_s} MB/s"
        topic = f"fixed-{mb_per_s}"
        sent = run.produce(topic, *TWELVE, *rate(mb_per_s), seconds=run.form.held_seconds)
        for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
            run.measured[f"produce {name} {at}"] = sent["latency_ms"][key]
        run.measured[f"stalls over 10 ms {at}"] = sent["latency_ms"]["stalls"]
        run.measured[f"time in stalls over 10 ms {at}"] = 100 * sent["latency_ms"]["stalled_s"] / sent["seconds"]
        run.measured[f"rate reached {at}"] = sent["mb_per_s"]
        run.delete(topic)


def sweep(run):
    """Connections × requests in flight × batch: a durable broker's throughput is its window ÷ its latency."""
    points = []
    connections_of, in_flight_of, batch_of = run.form.sweep
    for connections in connections_of:
        topic = f"sweep-{connections}"
        for in_flight in in_flight_of:
            for batch_kib in batch_of:
                window = ["--connections", connections, "--in-flight", in_flight, "--records-per-batch", batch_kib]
                sent = run.produce(topic, *TWELVE, *window, seconds=run.form.sweep_seconds)
                point = {"connections": connections, "in_flight": in_flight, "batch_kib": batch_kib}
                points.append({**point, "mb_per_s": sent["mb_per_s"], "p99_ms": sent["latency_ms"]["p99"]})
        run.delete(topic)
    run.measured.sweep = points
    for name, point in zip(("peak", "knee"), knee(points)):
        run.measured[f"sweep: {name}"] = point["mb_per_s"]
        run.measured[f"sweep: window at the {name}"] = window_kib(point)
        run.measured[f"sweep: p99 at the {name}"] = point["p99_ms"]


def one_in_flight(run):
    """A caller that waits for each ack."""
    what = "one producer, one 1 KiB record in flight"
    sent = run.produce("single", "--connections", 1, "--in-flight", 1, "--records-per-batch", 1)
    run.measured[f"{what}, p50"] = sent["latency_ms"]["p50"]
    run.measured[f"{what}, p99"] = sent["latency_ms"]["p99"]
    run.measured[what] = sent["requests"] / sent["seconds"]
    run.delete("single")


def many_connections(run):
    """A thousand producers that each send a record a second."""
    window = ["--connections", 1000, "--records-per-batch", 1, "--rate", 1000]
    seconds = max(1.5, run.form.load_seconds)  # Less, and some of them would send nothing.
    with Watch(run.server.group, run.server.pid()) as watch:
        sent = run.produce("connections", *TWELVE, *window, seconds=seconds)
    for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
        run.measured[f"1,000 connections × 1 record/s, {name}"] = sent["latency_ms"][key]
    run.measured["1,000 connections × 1 record/s, memory"] = watch.most_mib
    run.delete("connections")


def end_to_end(run):
    """A producer and a waiting consumer of one queue."""
    shown = load(run.server, "latency", "--topic", "latency", "--rate", 1000, "--seconds", run.form.latency_seconds)
    for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
        run.measured[f"end to end {name}, 1,000 records/s"] = shown["end_to_end_ms"][key]
    for name in ("p50", "p99"):
        run.measured[f"ack {name}, 1,000 records/s"] = shown["ack_ms"][name]
    run.delete("latency")


def read_while_producing(run, topic, before=lambda: None):
    """Reads a whole topic again and again while a producer adds to it: bytes read, seconds of reading, and the producer.

    `before` is called before each reading.
    """
    arguments = run.produce_arguments(topic, *TWELVE, *rate(BACKLOG_RATE))
    bytes_read, seconds = 0, 0.0
    with Background(run.server, *arguments) as producer:
        time.sleep(min(1, run.form.load_seconds / 4))  # It builds its batches first.
        while producer.is_running() or not bytes_read:
            before()
            read = run.consume(topic, *TWELVE)
            bytes_read, seconds = bytes_read + read["bytes"], seconds + read["seconds"]
        return bytes_read, seconds, producer.result()


def backlog(run):
    """Consumers that were down catch up while producers go on."""
    run.produce("backlog", *TWELVE)
    bytes_read, seconds, sent = read_while_producing(run, "backlog")
    beside = f"while producing {BACKLOG_RATE} MB/s"
    run.measured[f"drain of a backlog {beside}"] = bytes_read / 1e6 / seconds
    run.measured[f"produce p99 {beside} beside the drain"] = sent["latency_ms"]["p99"]
    run.delete("backlog")


def cold(run):
    """The same, but the page cache of the whole machine is dropped before each reading."""
    run.produce("cold", *TWELVE)
    os.sync()
    try:
        drop_page_cache()
    except OSError as error:
        raise NotPossible(f"the page cache cannot be dropped: {error}") from None
    before = run.disk.bytes_read_and_written() if run.disk.is_known() else None
    bytes_read, seconds, sent = read_while_producing(run, "cold", drop_page_cache)
    beside = f"while producing {BACKLOG_RATE} MB/s"
    run.measured[f"catch-up from a cold cache {beside}"] = bytes_read / 1e6 / seconds
    run.measured[f"produce p99 {beside} beside the cold catch-up"] = sent["latency_ms"]["p99"]
    if before:
        from_disk = run.disk.bytes_read_and_written()[0] - before[0]
        run.measured["device bytes read in the cold catch-up"] = from_disk / bytes_read
    run.delete("cold")


def fan_out(run):
    """Five consumer groups that each read everything and commit."""
    run.produce("fan-out", *TWELVE)
    usage = run.usage()
    read = run.consume("fan-out", *TWELVE, "--groups", 5, "--connections", 1)
    cpu, *_ = usage.end()
    run.measured[f"five consumer groups on one queue, {shape(1024, 12)}"] = read["mb_per_s"]
    run.measured[f"CPU of five consumer groups, {shape(1024, 12)}"] = cpu / (read["bytes"] / GIB)
    run.delete("fan-out")


def many_partitions(run):
    """One consumer of 1,000 partitions, in a fetch session where the broker grants one."""
    seconds, topic = run.form.latency_seconds, ["--topic", "partitions", "--partitions", 1000]
    load(run.server, "create", *topic)
    usage = run.usage()
    shown = load(run.server, "latency", *topic, "--rate", 1000, "--seconds", seconds)
    cpu, *_ = usage.end()
    for name in ("p50", "p99"):
        run.measured[f"a consumer of 1,000 partitions, end to end {name}"] = shown["end_to_end_ms"][name]
    run.measured["a consumer of 1,000 partitions, server's CPU"] = 100 * cpu / seconds
    run.delete("partitions")


def many_queues(run):
    """The same total load over more and more queues: as fast as possible, then at a fixed rate."""
    for count in run.form.queues:
        name, topics = f"queues-{count}", ["--topics", count, "--records-per-batch", 16]
        with Watch(run.server.group, run.server.pid()) as watch:
            fast = run.produce(name, *topics)
            paced = run.produce(name, *topics, "--rate", 10000)
        run.measured[f"produce over {queues(count)}, 16 KiB batches"] = fast["mb_per_s"]
        run.measured[f"produce p99 over {queues(count)}, 10,000 records/s"] = paced["latency_ms"]["p99"]
        run.measured[f"memory with {queues(count)}"] = watch.most_mib
        run.delete(name, "--topics", count)


def limited(run):
    """The native load with a memory limit of 512 MiB; the server is another process than in the scenarios above."""
    limit = "memory limit of 512 MiB"
    sent = run.produce("limited", *TWELVE)
    run.measured[f"produce, {limit}"] = sent["mb_per_s"]
    run.measured[f"consume, {limit}"] = run.consume("limited", *TWELVE)["mb_per_s"]
    paced = run.produce("limited", *TWELVE, *rate(BACKLOG_RATE))
    run.measured[f"produce p99 at {BACKLOG_RATE} MB/s, {limit}"] = paced["latency_ms"]["p99"]
    run.measured[f"memory peak, {limit}"] = run.server.peak_mib()


KAFKA = [
    stock, native, fixed_rates, sweep, one_in_flight, many_connections, end_to_end, backlog, cold, fan_out,
    many_partitions, many_queues,
]  # fmt: skip
