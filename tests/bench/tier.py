"""Measures the tier: older records in a bucket of an S3 server on the same disk, in the same run as a plain client of it.

    tests/bench/run --tier [--quick] [--server minio|versitygw] [--rounds N] [--objects N] [--only PART…] [--out FILE]

Parts: `speed` (uploads and cold reads as a share of what four connections of a plain client reach with the same server,
requests and bytes for each GiB, and what they cost), `beside` (p99 of producers with and without two consumers that read
the bucket from offset 0) and `objects` (memory of a broker whose manifests name many objects).

Costs are those of PRICES, list prices of AWS in us-east-1, in dollars. Kafka is three replicas on gp3 volumes, which are
paid for by their size, of which FILL_SHARE is used; S3 is paid for by what is in it. Traffic between zones, machines and
brokers' own disks are the same for both and left out.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tier"))
import machine  # noqa: E402
from clients import load  # noqa: E402
from harness import MIB, Cluster, offsets, wait_for  # noqa: E402
from stores import SERVERS  # noqa: E402
from summary import number  # noqa: E402

GIB = 1 << 30
PARTITIONS = 4
CONNECTIONS = 4
OBJECT_BYTES = 64 * MIB
# Of the tier's reader.
RANGE_BYTES = MIB
RATE_MB_PER_S = 20
WAIT_S_MAX = 900
PRICES = {
    # For each thousand requests.
    "put": 0.005, "list": 0.005, "get": 0.0004, "head": 0.0004, "delete": 0.0,
    # For each GB and month.
    "s3": 0.023, "gp3": 0.08,
}
REPLICAS, FILL_SHARE = 3, 0.7
GB_PER_GIB = GIB / 1e9
TIERED = {"remote.storage.enable": "true", "local.retention.ms": "1", "retention.ms": "-1", "retention.bytes": "-1",
          "segment.bytes": str(OBJECT_BYTES)}
SETTINGS = {"ropewalk.tier.object.bytes": OBJECT_BYTES, "ropewalk.tier.upload.max.age.ms": 1000,
            "log.retention.check.interval.ms": 1000}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Results:
    """Values by row, in the order in which they were measured."""

    def __init__(self):
        self.rows = []

    def add(self, name, unit, value, meaning):
        self.rows.append({"name": name, "unit": unit, "value": value, "meaning": meaning})
        say(f"{name}: {number(value)} {unit}")

    def table(self):
        lines = ["| | unit | ropewalk | what it means |", "|---|---|---|---|"]
        return "\n".join([*lines, *(f"| {row['name']} | {row['unit']} | {number(row['value'])} | {row['meaning']} |"
                                    for row in self.rows)])


class Address:
    """What the load clients are given."""

    def __init__(self, cluster):
        self.address = cluster.bootstrap


def plain(server, count):
    """MB/s of a plain client that puts so many objects, and gets them in ranges, over CONNECTIONS connections."""
    content = random.Random(1).randbytes(OBJECT_BYTES)

    def put(client, name):
        client.put(name, content)

    def get(client, name):
        for begin in range(0, OBJECT_BYTES, RANGE_BYTES):
            client.get(name, begin, begin + RANGE_BYTES)

    def run(do):
        clients = [server.client("plain") for _ in range(CONNECTIONS)]
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda at: [do(clients[at], f"{n}") for n in range(at, count, CONNECTIONS)], range(CONNECTIONS)))
        took = time.monotonic() - began
        for client in clients:
            client.close()
        return count * OBJECT_BYTES / 1e6 / took

    rates = run(put), run(get)
    client = server.client("plain")
    for at in range(count):
        client.delete(f"{at}")
    client.close()
    return rates


def requests(cluster):
    """Requests so far by operation, and bytes."""
    member = cluster.member
    found = {labels.split('"')[1]: count for labels, count in member.metrics("ropewalk_tier_requests_total").items()}
    for name in ("written", "read"):
        found[name] = member.metric(f"ropewalk_tier_{name}_bytes_total")
    return found


def since(cluster, before):
    return {name: count - before.get(name, 0) for name, count in requests(cluster).items()}


def fill(cluster, topic, gib):
    """A topic of so many GiB on the broker only; its size in bytes."""
    cluster.create(topic, {**TIERED, "remote.log.copy.disable": "true"}, PARTITIONS)
    size = 0
    while size < gib * GIB:
        size += load(Address(cluster), "produce", "--topic", topic, "--partitions", PARTITIONS, "--seconds", 1)["bytes"]
    return size


def upload(cluster, topic):
    """Seconds from the first request until all is in the bucket, and the requests."""
    before = requests(cluster)
    cluster.alter(topic, {"remote.log.copy.disable": "false"})
    wait_for("the upload begins", WAIT_S_MAX, lambda: None if since(cluster, before)["put"] else "no put", every=0.02)
    took = cluster.wait_until_uploaded(topic, PARTITIONS, seconds_max=WAIT_S_MAX)
    return took, since(cluster, before)


def restart(cluster):
    """Without anything in its cache."""
    cluster.member.stop()
    cluster.member.start()
    wait_for("the bucket has metrics", WAIT_S_MAX, lambda: (
        None if cluster.member.metrics("ropewalk_tier_requests_total") else "not yet"))


def costs(results, sent, read, gib):
    """Of the requests for each GiB, and of keeping it."""
    for what, done in (("upload", sent), ("cold read", read)):
        count = sum(done.get(name, 0) for name in ("put", "get", "head", "list", "delete"))
        results.add(f"requests for each GiB, {what}", "requests", count / gib, "of all kinds")
        dollars = sum(done.get(name, 0) / 1000 * PRICES[name] for name in ("put", "get", "head", "list", "delete"))
        results.add(f"requests for each GiB, {what}, price", "$/1000 GiB", dollars / gib * 1000, "at list prices")
    results.add("bytes put for each byte", "bytes/byte", sent["written"] / (gib * GIB), "records, indexes and checksums")
    results.add("bytes got for each byte", "bytes/byte", read["read"] / (gib * GIB), "above 1: read ahead in vain, or twice")
    month = PRICES["s3"] * GB_PER_GIB * 1000
    kafka = PRICES["gp3"] * REPLICAS / FILL_SHARE * GB_PER_GIB * 1000
    results.add("keeping it in the bucket", "$/1000 GiB/month", month, "one copy, which S3 replicates")
    results.add("keeping it in Kafka", "$/1000 GiB/month", kafka, f"{REPLICAS} replicas on volumes filled to {FILL_SHARE:.0%}")
    results.add("Kafka's disks, as a multiple of the bucket", "×", kafka / month, "more than 1 is in our favour")


def speed(cluster, server, results, form):
    put, get = plain(server, int(form.gib * GIB) // OBJECT_BYTES)
    results.add("a plain client puts", "MB/s", put, f"objects of 64 MiB, {CONNECTIONS} connections")
    results.add("a plain client gets", "MB/s", get, f"ranges of 1 MiB, {CONNECTIONS} connections")
    size = fill(cluster, "speed", form.gib)
    gib = size / GIB
    took, sent = upload(cluster, "speed")
    results.add("upload", "MB/s", size / 1e6 / took, "from the first put until the manifests have everything")
    results.add("upload, share of a plain client", "%", 100 * size / 1e6 / took / put, "the same server, the same run")
    cluster.wait_until_moved("speed", PARTITIONS, seconds_max=WAIT_S_MAX)
    restart(cluster)
    before = requests(cluster)
    read = load(Address(cluster), "consume", "--topic", "speed", "--partitions", PARTITIONS)
    results.add("cold read", "MB/s", read["mb_per_s"], "from offset 0, nothing cached, one consumer")
    results.add("cold read, share of a plain client", "%", 100 * read["mb_per_s"] / get, "the same server, the same run")
    costs(results, sent, since(cluster, before), gib)


class Reader(threading.Thread):
    """Reads the whole topic again and again, from offset 0."""

    def __init__(self, cluster, topic):
        super().__init__(daemon=True)
        self.cluster, self.topic, self.is_done, self.bytes = cluster, topic, threading.Event(), 0

    def run(self):
        while not self.is_done.is_set():
            self.bytes += load(Address(self.cluster), "consume", "--topic", self.topic, "--partitions", PARTITIONS)["bytes"]


def beside(cluster, results, form):
    if cluster.tier_end("speed") == 0:
        raise RuntimeError("the part `beside` reads what the part `speed` uploaded")
    rate = ["--rate", RATE_MB_PER_S * 1e6 / 1024, "--seconds", form.seconds]
    alone, with_readers, shares = [], [], []

    def p99(topic):
        measured = load(Address(cluster), "produce", "--topic", topic, "--partitions", 12, *rate)
        load(Address(cluster), "delete", "--topic", topic)
        return measured["latency_ms"]["p99"]

    p99("first")
    for at in range(form.rounds):
        alone.append(p99(f"alone-{at}"))
        readers = [Reader(cluster, "speed") for _ in range(2)]
        before = requests(cluster)
        for reader in readers:
            reader.start()
        with_readers.append(p99(f"beside-{at}"))
        shares.append(since(cluster, before)["read"] / form.seconds / 1e6)
        for reader in readers:
            reader.is_done.set()
        for reader in readers:
            reader.join(WAIT_S_MAX)
    ratios = [b / a for a, b in zip(alone, with_readers)]
    results.add(f"produce p99 at {RATE_MB_PER_S} MB/s", "ms", statistics.median(alone), "alone")
    results.add("the same beside two cold readers", "ms", statistics.median(with_readers), "both from offset 0")
    results.add("ratio of the two", "×", statistics.median(ratios),
                f"1: producers notice nothing; rounds {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    results.add("read from the bucket meanwhile", "MB/s", statistics.median(shares), "by both, what the cache had apart")


def anonymous_mib(member):
    status = Path(f"/proc/{member.process.pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def many_objects(directory, binary, results, form):
    """Small objects by age: each partition uploads one in each pass of the broker."""
    partitions = 2000
    cluster = Cluster(binary, directory / "objects", None, settings={
        **SETTINGS, "ropewalk.tier.upload.max.age.ms": 1, "log.retention.check.interval.ms": 5000,
    }, proxied=False, url=f"file://{directory}/bucket")
    member = cluster.start().member
    try:
        cluster.create("many", TIERED, partitions)
        produce = ["produce", "--topic", "many", "--partitions", partitions, "--record-bytes", 100,
                   "--records-per-batch", 1, "--rate", partitions, "--connections", 2]

        def uploaded():
            return member.metric("ropewalk_tier_uploaded_objects_total")

        load(Address(cluster), *produce, "--seconds", 4)
        cluster.wait_until_uploaded("many", 1)
        time.sleep(5)
        count, before, began = uploaded(), anonymous_mib(member), time.monotonic()
        while uploaded() < form.objects:
            load(Address(cluster), *produce, "--seconds", 10)
            say(f"{uploaded():.0f} objects after {time.monotonic() - began:.0f} s, {anonymous_mib(member):.0f} MiB")
        time.sleep(10)
        made, after = uploaded() - count, anonymous_mib(member)
        results.add("objects", "objects", uploaded(), f"of {partitions} partitions")
        results.add("memory with few objects, anonymous", "MiB", before, f"{count:.0f} objects")
        results.add("memory with all of them, anonymous", "MiB", after, "recent objects, and references to pages")
        results.add("memory for each object", "bytes", (after - before) * MIB / made, "of the process")
        results.add("objects made", "objects/s", made / (time.monotonic() - began), "the pace of this part")
        restart(cluster)
        time.sleep(5)
        results.add("memory after a restart, anonymous", "MiB", anonymous_mib(member), "the same manifests")
        end = cluster.offset("many", offsets.LATEST, 7)
        begin = cluster.offset("many", offsets.EARLIEST_LOCAL, 7)
        assert begin > 0 and end >= begin, f"partition 7 is local from {begin} of {end}"
    finally:
        cluster.close()


def assumptions():
    """What the costs are calculated from."""
    of = ", ".join(f"{name} {PRICES[name]}" for name in ("put", "list", "get", "head", "delete"))
    return (f"Prices: dollars for 1000 requests: {of}; for a GB and month: S3 {PRICES['s3']}, gp3 {PRICES['gp3']} (list prices "
            f"of AWS, us-east-1). Kafka: {REPLICAS} replicas on gp3 volumes of which {FILL_SHARE:.0%} are used. Left out, as the "
            "same for both: traffic between zones, machines, and what brokers keep on their own disks.")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="1 GiB, one round, 10,000 objects")
    parser.add_argument("--server", choices=sorted(SERVERS), default="minio")
    parser.add_argument("--gib", type=float, help="how much is uploaded and read (4; 1 if quick)")
    parser.add_argument("--rounds", type=int, help="of the part `beside` (3; 1 if quick)")
    parser.add_argument("--seconds", type=float, default=10, help="of each load of the part `beside`")
    parser.add_argument("--objects", type=int, help="of the part `objects` (100,000; 10,000 if quick)")
    parser.add_argument("--only", default="speed,beside,objects", help="some of the parts, with commas")
    parser.add_argument("--directory", default=os.environ.get("BENCH_DIRECTORY", ""), help="for all data")
    parser.add_argument("--out", default="", help="also writes the values to this file of JSON, and the table beside it")
    form = parser.parse_args()
    form.gib = form.gib or (1 if form.quick else 4)
    form.rounds = form.rounds or (1 if form.quick else 3)
    form.objects = form.objects or (10_000 if form.quick else 100_000)
    form.parts = set(form.only.split(","))
    if unknown := form.parts - {"speed", "beside", "objects"}:
        parser.error(f"--only: no part is called {', '.join(sorted(unknown))}")
    return form


def main():
    form = parsed()
    machine.allow_many_files()
    binary = os.environ["ROPEWALK_BROKER"]
    directory = Path(form.directory, f"tier-{os.getpid()}")
    directory.mkdir(parents=True)
    results, server, cluster = Results(), None, None
    try:
        if form.parts & {"speed", "beside"}:
            (directory / "s3").mkdir()
            server = SERVERS[form.server](directory / "s3").start()
            cluster = Cluster(binary, directory / "cluster", server, settings=SETTINGS, proxied=False).start()
            if "speed" in form.parts:
                speed(cluster, server, results, form)
            if "beside" in form.parts:
                beside(cluster, results, form)
            cluster.close()
            server.close()
        if "objects" in form.parts:
            many_objects(directory, binary, results, form)
    finally:
        if cluster is not None:
            cluster.close()
        if server is not None:
            server.close()
        shutil.rmtree(directory, ignore_errors=True)
    title = f"{time.strftime('%Y-%m-%d')}, {machine.description()}, {form.server} on the same disk and processors, {form.gib:.3g} GiB"
    shown = f"{title}\n\n{results.table()}\n\n{assumptions()}\n"
    if form.out:
        Path(form.out).write_text(json.dumps({"machine": machine.description(), "server": form.server, "rows": results.rows}, indent=1))
        Path(form.out).with_suffix(".md").write_text(shown)
    print(shown)


if __name__ == "__main__":
    main()
