"""What is measured of servers with a protocol of their own, by their own clients: 1 KiB messages."""

import os
import re

import clients
from cgroup import Watch

GIB = 2**30
OF = "its own client, 1024 B"


def measure_produce(run, produce):
    """Calls `produce`, which returns MB/s and the bytes produced, and fills the rows beside the rate."""
    usage = run.usage()
    with Watch(run.server.group, run.server.pid()) as watch:
        mb_per_s, produced = produce()
    cpu, _, written = usage.end()
    run.measured[f"produce, {OF}"] = mb_per_s
    run.measured[f"CPU to produce, {OF}"] = cpu / (produced / GIB)
    if written is not None:
        run.measured[f"device bytes written, {OF}"] = written / produced
    run.measured["memory loaded, peak"] = run.server.peak_mib()
    run.measured["memory loaded, anonymous"] = watch.most_mib


def nats(run):
    """NATS's own bench: asynchronous publishing with acks."""
    cli = [os.environ["NATS_CLI"], "--server", run.server.address]
    count = run.form.stock_bytes // 1024 // (20 if run.server.name == "nats-fsync" else 1)
    bench = ["--stream", "bench", "--msgs", str(count), "--size", "1024", "--no-progress"]
    clients.run([*cli, "stream", "add", "bench", "--subjects", "bench.>", "--storage", "file", "--defaults"])

    def produce():
        shown = clients.run([*cli, "bench", "js", "pub", "async", "bench.x", *bench])
        return nats_rate(shown) * 1024 / 1e6, count * 1024

    measure_produce(run, produce)
    shown = clients.run([*cli, "bench", "js", "ordered", *bench])
    run.measured[f"consume, {OF}"] = nats_rate(shown) * 1024 / 1e6


def nats_rate(shown):
    return float(re.findall(r"([\d,]+) msgs/sec", shown)[-1].replace(",", ""))


def amqp(run):
    """RabbitMQ's PerfTest on a quorum queue, with publisher confirms and acks."""
    java = ["java", "-Xmx512M", "-cp", os.environ["PERF_TEST_LIBS"] + "/*", "com.rabbitmq.perf.PerfTest"]
    queue = ["--uri", f"amqp://guest:guest@{run.server.address}", "--quorum-queue", "--queue", "bench", "--size", "1024"]
    seconds = max(1, round(run.form.load_seconds))
    command = [*java, *queue, "--time", str(seconds)]

    def produce():
        shown = clients.run([*command, "--producers", "4", "--consumers", "0", "--confirm", "500"])
        rate = float(re.findall(r"sending rate avg: ([\d.]+)", shown)[-1])
        return rate * 1024 / 1e6, rate * seconds * 1024

    measure_produce(run, produce)
    shown = clients.run([*command, "--producers", "0", "--consumers", "4", "--qos", "500"])
    run.measured[f"consume, {OF}"] = float(re.findall(r"receiving rate avg: ([\d.]+)", shown)[-1]) * 1024 / 1e6
