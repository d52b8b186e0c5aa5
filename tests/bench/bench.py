"""Benchmarks ropewalk and its peers on the same disk in the same run, interleaved; prints a table of medians and ratios.

A round starts each server in turn on an empty directory, runs every scenario that its clients can drive, and
stops it. The order rotates from round to round, so that drift of the machine affects all servers equally. A value
is the median over the rounds; a ratio compares ropewalk with a peer, and more than 1 is in favour of ropewalk.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from servers import SERVERS

LOAD = os.environ.get("ROPEWALK_LOAD", "")
PERF_TOPICS = [(100, 1), (100, 12), (1024, 1), (1024, 12)]
LESS_IS_BETTER = ("ms", "s/GiB", "MiB", "s")


class Scale:
    """The amount of work of a run."""

    def __init__(self, quick):
        self.stock_bytes = 100_000_000 if quick else 600_000_000
        self.load_seconds = 3 if quick else 8
        self.latency_seconds = 3 if quick else 10
        self.queues = [1, 1000] if quick else [1, 1000, 10000]


def run(command, seconds_max=300, env=None):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max, env={**os.environ, **(env or {})})
    if ended.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[-200:]}: {(ended.stdout + ended.stderr)[-600:]}")
    return ended.stdout


def load(server, *arguments):
    return json.loads(run([LOAD, "--bootstrap", server.address, *map(str, arguments)]))


def tool(name, server, *arguments):
    java = ["java", "-Xmx512M", "-Dlog4j2.level=OFF", "-cp", os.environ["KAFKA_LIBS"] + "/*", f"org.apache.kafka.tools.{name}"]
    return run([*java, "--bootstrap-server", server.address, *map(str, arguments)])


def stock_clients(server, scale, results):
    """Kafka's own ProducerPerformance and ConsumerPerformance."""
    for size, partitions in PERF_TOPICS:
        topic = f"stock-{size}-{partitions}"
        records = scale.stock_bytes // size // (4 if size == 100 else 1)
        tool("TopicCommand", server, "--create", "--topic", topic, "--partitions", partitions)
        shown = tool(
            "ProducerPerformance", server, "--topic", topic, "--num-records", records, "--record-size", size,
            "--throughput", -1, "--command-property", "acks=all",
        )
        rate, p99 = re.findall(r"([\d.]+) records/sec .*?(\d+) ms 99th", shown)[-1]
        what = f"{size} B × {partitions} partition{'s' if partitions > 1 else ''}"
        results[f"produce, stock client, {what}", "MB/s"] = float(rate) * size / 1e6
        results[f"produce p99 at full speed, stock client, {what}", "ms"] = float(p99)
        shown = tool("ConsumerPerformance", server, "--topic", topic, "--num-records", records, "--timeout", 60000)
        row = [cell.strip() for cell in shown.strip().splitlines()[-1].split(",")]
        results[f"consume, stock client, {what}", "MB/s"] = float(row[3]) * 1.048576
        results[f"consume, stock client, fetch time only, {what}", "MB/s"] = float(row[8]) * 1.048576


def native_client(server, scale, results):
    """Our load client, which leaves the broker most of the CPU."""
    for size, partitions in PERF_TOPICS:
        topic, what = f"native-{size}-{partitions}", f"{size} B × {partitions} partition{'s' if partitions > 1 else ''}"
        shape = ["--topic", topic, "--partitions", partitions]
        batch = ["--record-bytes", size, "--records-per-batch", max(1, 65536 // size)]
        before = server.cpu_seconds()
        sent = load(server, "produce", *shape, *batch, "--seconds", scale.load_seconds)
        produced = server.cpu_seconds()
        read = load(server, "consume", *shape)
        consumed = server.cpu_seconds()
        results[f"produce, native client, {what}", "MB/s"] = sent["mb_per_s"]
        results[f"consume, native client, {what}", "MB/s"] = read["mb_per_s"]
        gib = sent["records"] * size / 2**30
        results[f"CPU to produce, {what}", "s/GiB"] = (produced - before) / gib
        results[f"CPU to consume, {what}", "s/GiB"] = (consumed - produced) / gib
        if (size, partitions) == (1024, 12):
            results["memory loaded", "MiB"] = server.memory_mib()
            half = load(server, "produce", *shape, *batch, "--seconds", scale.load_seconds, "--rate", sent["records_per_s"] / 2)
            results[f"produce p50 at half of its own peak, {what}", "ms"] = half["latency_ms"]["p50"]
            results[f"produce p99 at half of its own peak, {what}", "ms"] = half["latency_ms"]["p99"]


def end_to_end(server, scale, results):
    shown = load(server, "latency", "--topic", "latency", "--rate", 1000, "--seconds", scale.latency_seconds)
    for percentile in ("p50", "p99"):
        results[f"end to end {percentile}, 1000 records/s", "ms"] = shown["end_to_end_ms"][percentile]
        results[f"ack {percentile}, 1000 records/s", "ms"] = shown["ack_ms"][percentile]


def many_queues(server, scale, results):
    """The same total load over an increasing number of queues: as fast as possible, then at a fixed rate."""
    for count in scale.queues:
        shape = ["--topic", f"queues-{count}", "--topics", count, "--records-per-batch", 16]
        fast = load(server, "produce", *shape, "--seconds", scale.load_seconds)
        results[f"produce over {count} queues, 16 KiB batches", "MB/s"] = fast["mb_per_s"]
        paced = load(server, "produce", *shape, "--seconds", scale.load_seconds, "--rate", 10000)
        results[f"produce p99 over {count} queues, 10,000 records/s", "ms"] = paced["latency_ms"]["p99"]
        results[f"memory with {count} queues", "MiB"] = server.memory_mib()


def nats(server, scale, results):
    """NATS's own bench: asynchronous publishing with acks, 1 KiB."""
    cli, count = os.environ["NATS_CLI"], scale.stock_bytes // 1024 // (20 if server.name == "nats-fsync" else 1)
    bench = [cli, "--server", server.address, "bench", "js"]
    before = server.cpu_seconds()
    common = ["--stream", "bench", "--msgs", str(count), "--size", "1024", "--no-progress"]
    run([cli, "--server", server.address, "stream", "add", "bench", "--subjects", "bench.>", "--storage", "file", "--defaults"])
    shown = run([*bench, "pub", "async", "bench.x", *common])
    results["produce, its own client, 1024 B", "MB/s"] = nats_rate(shown) * 1024 / 1e6
    results["CPU to produce, its own client, 1024 B", "s/GiB"] = (server.cpu_seconds() - before) / (count * 1024 / 2**30)
    results["memory loaded", "MiB"] = server.memory_mib()
    shown = run([*bench, "ordered", *common])
    results["consume, its own client, 1024 B", "MB/s"] = nats_rate(shown) * 1024 / 1e6


def nats_rate(shown):
    return float(re.findall(r"([\d,]+) msgs/sec", shown)[-1].replace(",", ""))


def amqp(server, scale, results):
    """RabbitMQ's PerfTest on a quorum queue, with publisher confirms and acks, 1 KiB."""
    java = ["java", "-Xmx512M", "-cp", os.environ["PERF_TEST_LIBS"] + "/*", "com.rabbitmq.perf.PerfTest"]
    common = ["--uri", f"amqp://guest:guest@{server.address}", "--quorum-queue", "--queue", "bench", "--size", "1024"]
    before = server.cpu_seconds()
    shown = run([*java, *common, "--producers", "4", "--consumers", "0", "--confirm", "500", "--time", str(scale.load_seconds)])
    rate = float(re.findall(r"sending rate avg: ([\d.]+)", shown)[-1])
    results["produce, its own client, 1024 B", "MB/s"] = rate * 1024 / 1e6
    results["CPU to produce, its own client, 1024 B", "s/GiB"] = (server.cpu_seconds() - before) / (rate * scale.load_seconds * 1024 / 2**30)
    results["memory loaded", "MiB"] = server.memory_mib()
    shown = run([*java, *common, "--producers", "0", "--consumers", "4", "--qos", "500", "--time", str(scale.load_seconds)])
    results["consume, its own client, 1024 B", "MB/s"] = float(re.findall(r"receiving rate avg: ([\d.]+)", shown)[-1]) * 1024 / 1e6


SCENARIOS = {"kafka": [stock_clients, native_client, end_to_end, many_queues], "nats": [nats], "amqp": [amqp]}


def one_round(server, scale):
    results = {}
    started = time.monotonic()
    server.start()
    try:
        if server.speaks == "kafka":
            load(server, "first-ack")
            results["start to first ack", "s"] = time.monotonic() - started
        server.wait_until_it_listens()
        time.sleep(3)
        results["memory idle", "MiB"] = server.memory_mib()
        for scenario in SCENARIOS[server.speaks]:
            try:
                scenario(server, scale, results)
            except (RuntimeError, subprocess.TimeoutExpired, IndexError) as error:
                print(f"FAILED: {server.name}, {scenario.__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        server.stop()
    return results


def table(medians, names):
    results = dict.fromkeys(result for name in names for result in medians[name])
    ours = medians.get("ropewalk", {})
    lines = ["| | unit | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for result in results:
        cells = []
        for name in names:
            value, own = medians[name].get(result), ours.get(result)
            cell = "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
            if value and own and name != "ropewalk":
                ratio = value / own if result[1] in LESS_IS_BETTER else own / value
                cell += f" ({ratio:.2g}×)"
            cells.append(cell)
        lines.append(f"| {result[0]} | {result[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    return f"{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short loads, no 10,000 queues, one round")
    parser.add_argument("--rounds", type=int, help="how often each server is measured (3; 1 if quick)")
    parser.add_argument("--only", default=",".join(SERVERS), help="some of the servers (%(default)s)")
    parser.add_argument("--directory", default=os.environ.get("BENCH_DIRECTORY", ""), help="where the servers keep their data")
    parser.add_argument("--out", default="", help="also writes every value to this file of JSON, and the table beside it")
    arguments = parser.parse_args()
    names = [name for name in SERVERS if name in arguments.only.split(",")]
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    scale = Scale(arguments.quick)

    taken = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = time.monotonic()
            taken[name].append(one_round(SERVERS[name](name, arguments.directory), scale))
            print(f"round {i + 1} of {rounds}: {name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    medians = {
        name: {f: statistics.median(r[f] for r in of_name if f in r) for f in dict.fromkeys(f for r in of_name for f in r)}
        for name, of_name in taken.items()
    }
    shown = f"{time.strftime('%Y-%m-%d')}, {machine()}, medians of {rounds} round{'s' if rounds > 1 else ''}\n\n{table(medians, names)}\n"
    print(shown)
    if arguments.out:
        rows = {name: [{f"{what} [{unit}]": v for (what, unit), v in r.items()} for r in of_name] for name, of_name in taken.items()}
        Path(arguments.out).write_text(json.dumps({"machine": machine(), "rounds": rows}, indent=1, ensure_ascii=False))
        Path(arguments.out).with_suffix(".md").write_text(shown)


if __name__ == "__main__":
    main()
