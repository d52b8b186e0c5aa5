"""What is measured of a cluster of three brokers that speak Kafka's protocol."""

import time
from concurrent.futures import ThreadPoolExecutor

from cgroup import Watch
from clients import Failed, load
from rows import AWAY_RATE, CLUSTER_RATES_MB_PER_S, CLUSTER_SHAPES, SHARDS, shape
from scenarios import GIB, TWELVE, one_in_flight, rate

# Two to each leader of a topic whose leaders are spread.
WINDOW = ["--connections", 6]
# A slow cluster gets no more loads than these while a broker is away.
MISSED_LOADS_MAX = 3


def cluster_native(run):
    """Our load client at full speed: the limit of the three brokers on the processors that they share."""
    for size, partitions in CLUSTER_SHAPES:
        of, topic = shape(size, partitions), f"native-{size}-{partitions}"
        spread = ["--partitions", partitions]
        batch = ["--record-bytes", size, "--records-per-batch", max(1, 65536 // size)]
        usage = run.usage()
        with Watch(run.server.group, run.server.pid()) as watch:
            sent = run.produce(topic, *spread, *batch, *WINDOW)
        cpu, _, written = usage.end()
        run.measured[f"produce, {of}"] = sent["mb_per_s"]
        run.measured[f"produce p99 at full speed, {of}"] = sent["latency_ms"]["p99"]
        run.measured[f"CPU to produce, {of}"] = cpu / (sent["bytes"] / GIB)
        if written is not None:
            run.measured[f"device bytes written, {of}"] = written / sent["bytes"]
        usage = run.usage()
        read = run.consume(topic, *spread, *WINDOW)
        cpu, *_ = usage.end()
        run.measured[f"consume, {of}"] = read["mb_per_s"]
        run.measured[f"CPU to consume, {of}"] = cpu / (read["bytes"] / GIB)
        if (size, partitions) == (1024, 12):
            run.measured["memory loaded, anonymous, sum of the brokers"] = watch.most_mib
        run.delete(topic)


def cluster_rates(run):
    """The same loads for all clusters, with latency counted from when a request was due."""
    # Not measured: the disk is still busy with what the loads at full speed left.
    run.produce("before-fixed", *TWELVE, *rate(CLUSTER_RATES_MB_PER_S[0]), *WINDOW)
    run.delete("before-fixed")
    for mb_per_s in CLUSTER_RATES_MB_PER_S:
        at, topic = f"at {mb_per_s} MB/s", f"fixed-{mb_per_s}"
        usage = run.usage()
        sent = run.produce(topic, *TWELVE, *rate(mb_per_s), *WINDOW)
        cpu, *_ = usage.end()
        for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
            run.measured[f"produce {name} {at}"] = sent["latency_ms"][key]
        run.measured[f"rate reached {at}"] = sent["mb_per_s"]
        run.measured[f"CPU {at}"] = cpu / (sent["bytes"] / GIB)
        run.delete(topic)


def idle(run):
    """No client, but topics: what elections, heartbeats and timers cost."""
    load(run.server, "create", "--topic", "idle", "--partitions", SHARDS)
    time.sleep(run.form.idle_seconds)
    seconds, before = run.form.idle_measured_seconds, run.server.cpu_seconds()
    time.sleep(seconds)
    cpu = run.server.cpu_seconds() - before
    run.measured[f"CPU of the idle cluster, {SHARDS} partitions"] = 100 * cpu / seconds
    run.measured["memory of the idle cluster, anonymous, sum of the brokers"] = run.server.anonymous_mib()
    run.delete("idle")


def catch_up(run):
    """One broker is stopped, misses a backlog, and is started again, while producers go on at a fixed rate in short loads."""
    server, topic = run.server, "catch-up"
    load(server, "create", "--topic", topic, *TWELVE)
    server.wait_until_caught_up(topic, 12)
    server.take_away(server.nodes[-1])
    try:
        missed = 0
        for _ in range(MISSED_LOADS_MAX):
            missed += run.produce(topic, *TWELVE, *WINDOW)["bytes"]
            if missed >= run.form.missed_bytes:
                break
        pace = run.produce(topic, *TWELVE, *rate(AWAY_RATE), *WINDOW, seconds=run.form.load_seconds)
        missed += pace["bytes"]
    finally:
        started = server.bring_back()
    loads = []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait_until_caught_up, topic, 12)
        while not loads or not waiting.done():
            loads.append(run.produce(topic, *TWELVE, *rate(AWAY_RATE), *WINDOW)["latency_ms"])
        caught_up = waiting.result()
    server.wait_for(server.nodes)
    server.use_all()
    if caught_up < started:
        raise Failed("the broker was in sync before it was started")
    run.measured["catch-up of a broker that was away"] = missed / 1e6 / (caught_up - started)
    run.measured["catch-up, time until in sync"] = caught_up - started
    run.measured["bytes that it missed"] = missed / 1e6
    run.measured[f"produce p99 at {AWAY_RATE} MB/s while one broker is away"] = pace["latency_ms"]["p99"]
    run.measured[f"produce p99 at {AWAY_RATE} MB/s during the catch-up"] = max(load["p99"] for load in loads)
    run.measured[f"produce max at {AWAY_RATE} MB/s during the catch-up"] = max(load["max"] for load in loads)
    run.delete(topic)


CLUSTER = [cluster_native, cluster_rates, one_in_flight, idle, catch_up]
