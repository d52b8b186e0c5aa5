"""The rows of the table: what each is called, its unit, which scenario measures it, and what it means to a user."""

from dataclasses import dataclass

SHAPES = ((100, 1), (100, 12), (1024, 1), (1024, 12))
RATES_MB_PER_S = (50, 100, 200)
BACKLOG_RATE = 50
CLUSTER_SHAPES = ((1024, 12), (1024, 1), (100, 12))
CLUSTER_RATES_MB_PER_S = (20, 50, 100)
AWAY_RATE = 20
# As many partitions as a cluster has shards by default.
SHARDS = 24
LESS_IS_BETTER = {"ms", "s/GiB", "MiB", "s", "bytes/byte", "% of a core", "% of time"}


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    meaning: str
    scenarios: tuple
    # Whether more or less of it is better at all.
    is_compared: bool = True

    def less_is_better(self):
        return self.unit in LESS_IS_BETTER


def shape(size, partitions):
    return f"{size} B × {partitions} partition{'s' if partitions > 1 else ''}"


def queues(count):
    return f"{count:,} queue{'s' if count > 1 else ''}"


def table():
    """An empty list of rows, and a function that returns what adds a row of some scenarios to it."""
    found = []

    def group(*scenarios):
        return lambda *cells, **options: found.append(Row(*cells, scenarios, **options))

    return found, group


def rows(counts):
    """All rows in the order of the table; `counts` are the numbers of queues that a run measures."""
    found, group = table()
    row = group("start")
    row("every acknowledged record is fsynced", "", "whether a power cut can take records that were acknowledged")
    row("start to first ack", "s", "how long a restarted broker keeps producers waiting, from the start of its process")
    row("memory idle, peak", "MiB", "what the pod needs before it does anything, page cache included")
    near = "near `recycled` above: the rows below do not pay for fresh memory"
    row("page-cache write after the warm-up", "s/GiB", near, is_compared=False)
    row = group("stock")
    for size, partitions in SHAPES:
        of = shape(size, partitions)
        row(f"produce, stock client, {of}", "MB/s", "what one Java producer reaches; it takes most of the CPU")
        row(f"produce p99 at full speed, stock client, {of}", "ms", "mostly the queue inside the producer")
        row(f"consume, stock client, {of}", "MB/s", "what one Java consumer reaches, joining its group included")
        row(f"consume, stock client, fetch time only, {of}", "MB/s", "the same once it has joined")
    row = group("native")
    for size, partitions in SHAPES:
        of = shape(size, partitions)
        row(f"produce, native client, {of}", "MB/s", "the broker's own limit, 64 KiB batches")
        row(f"consume, native client, {of}", "MB/s", "the broker's own limit, 1 MiB of each partition per request")
        row(f"CPU to produce, {of}", "s/GiB", "processor time to pay for, write-back included, client not")
        row(f"CPU to consume, {of}", "s/GiB", "processor time to pay for, client not")
        row(f"device bytes written, {of}", "bytes/byte", "share of a volume's bandwidth, and wear, of each byte produced")
    of = shape(1024, 12)
    own = "what the load client itself takes from the same processors"
    row(f"client's CPU to produce, {of}", "s/GiB", own, is_compared=False)
    row(f"client's CPU to consume, {of}", "s/GiB", own, is_compared=False)
    row(f"produce, idempotent producers, {of}", "MB/s", "the default of Kafka's producer: retries are detected")
    row = group("native", "peer")
    full = "page cache included; the limit of the cgroup once a run wrote more than that"
    row("memory loaded, peak", "MiB", full, is_compared=False)
    row("memory loaded, anonymous", "MiB", "what the pod's limit must leave room for besides page cache")
    row = group("peer")
    row("produce, its own client, 1024 B", "MB/s", "its own client and payload, one message per request")
    row("consume, its own client, 1024 B", "MB/s", "its own client")
    row("CPU to produce, its own client, 1024 B", "s/GiB", "processor time to pay for, client not")
    row("device bytes written, its own client, 1024 B", "bytes/byte", "share of a volume's bandwidth of each byte produced")
    row = group("fixed_rates")
    for rate in RATES_MB_PER_S:
        at = f"at {rate} MB/s"
        row(f"produce p50 {at}", "ms", "half of the requests, from when they were due; the same load for all servers")
        row(f"produce p99 {at}", "ms", "one request in a hundred is slower")
        row(f"produce p99.9 {at}", "ms", "one request in a thousand is slower")
        row(f"produce max {at}", "ms", "the slowest request")
        row(f"stalls over 10 ms {at}", "stalls", "how often producers wait for the broker", is_compared=False)
        row(f"time in stalls over 10 ms {at}", "% of time", "how much of the time some producer waits")
        row(f"rate reached {at}", "MB/s", "below the rate asked for: the server cannot keep up", is_compared=False)
    row = group("sweep")
    row("sweep: peak", "MB/s", "the most over all windows")
    row("sweep: window at the peak", "KiB", "connections × requests in flight × batch", is_compared=False)
    row("sweep: p99 at the peak", "ms", "what the peak costs")
    row("sweep: knee", "MB/s", "at the smallest window that reaches 80 % of the peak")
    row("sweep: window at the knee", "KiB", "how much must be in flight to use the broker", is_compared=False)
    row("sweep: p99 at the knee", "ms", "what it costs there")
    row = group("one_in_flight")
    row("one producer, one 1 KiB record in flight, p50", "ms", "a caller that waits for acks; compare the disk's own 4 KiB")
    row("one producer, one 1 KiB record in flight, p99", "ms", "a caller that waits for each ack")
    row("one producer, one 1 KiB record in flight", "acks/s", "how many it gets done")
    row = group("many_connections")
    for name in ("p50", "p99", "p99.9", "max"):
        row(f"1,000 connections × 1 record/s, {name}", "ms", "many small services on one broker")
    row("1,000 connections × 1 record/s, memory", "MiB", "anonymous memory with 1,000 producers")
    row = group("end_to_end")
    for name in ("p50", "p99", "p99.9"):
        row(f"end to end {name}, 1,000 records/s", "ms", "from when a record was due until a consumer has it")
    for name in ("p50", "p99"):
        row(f"ack {name}, 1,000 records/s", "ms", "from when a record was due until its ack")
    row = group("backlog")
    beside = f"while producing {BACKLOG_RATE} MB/s"
    row(f"drain of a backlog {beside}", "MB/s", "how fast consumers that were down catch up")
    row(f"produce p99 {beside} beside the drain", "ms", f"what producers notice of it: compare p99 at {BACKLOG_RATE} MB/s")
    row = group("cold")
    row(f"catch-up from a cold cache {beside}", "MB/s", "a consumer reads what left memory long ago")
    row(f"produce p99 {beside} beside the cold catch-up", "ms", f"what producers notice: compare p99 at {BACKLOG_RATE} MB/s")
    share = "near 1: the disk was read; near 0: memory was"
    row("device bytes read in the cold catch-up", "bytes/byte", share, is_compared=False)
    row = group("fan_out")
    row(f"five consumer groups on one queue, {of}", "MB/s", "sum over the groups")
    row(f"CPU of five consumer groups, {of}", "s/GiB", "processor time to pay for each GiB delivered, client not")
    row = group("many_partitions")
    for name in ("p50", "p99"):
        row(f"a consumer of 1,000 partitions, end to end {name}", "ms", "1,000 records/s over 1,000 partitions")
    row("a consumer of 1,000 partitions, server's CPU", "% of a core", "what 1,000 records/s over 1,000 partitions cost")
    row = group("many_queues")
    for count in counts:
        row(f"produce over {queues(count)}, 16 KiB batches", "MB/s", "the same load over more and more queues")
        row(f"produce p99 over {queues(count)}, 10,000 records/s", "ms", "what a producer of one of many queues notices")
        row(f"memory with {queues(count)}", "MiB", "anonymous memory")
    row = group("limited")
    row("produce, memory limit of 512 MiB", "MB/s", "the native load in a small pod (Kafka with half of it as heap)")
    row("consume, memory limit of 512 MiB", "MB/s", "the same topic, mostly not in memory")
    row(f"produce p99 at {BACKLOG_RATE} MB/s, memory limit of 512 MiB", "ms", "what producers notice of a small pod")
    full = "page cache fills what the process leaves"
    row("memory peak, memory limit of 512 MiB", "MiB", full, is_compared=False)
    return found


def cluster_rows(_counts):
    """The rows of a benchmark of clusters of three brokers, in the order of the table."""
    found, group = table()
    row = group("start")
    row("every acknowledged record is fsynced", "", "by two of three brokers: whether a power cut of all can take records")
    row("start to first ack", "s", "how long a new cluster keeps producers waiting, from the start of its processes")
    row("memory idle, peak", "MiB", "sum of the brokers before they do anything, page cache included")
    near = "near `recycled` above: the rows below do not pay for fresh memory"
    row("page-cache write after the warm-up", "s/GiB", near, is_compared=False)
    row = group("cluster_native")
    for size, partitions in CLUSTER_SHAPES:
        of = shape(size, partitions)
        row(f"produce, {of}", "MB/s", "the limit of three brokers and the client on the same processors, 64 KiB batches")
        row(f"produce p99 at full speed, {of}", "ms", "what that costs a request")
        row(f"consume, {of}", "MB/s", "from the leaders, 1 MiB of each partition per request")
        row(f"CPU to produce, {of}", "s/GiB", "of all brokers, write-back included, client not")
        row(f"CPU to consume, {of}", "s/GiB", "of all brokers, client not")
        row(f"device bytes written, {of}", "bytes/byte", "by all brokers, for each byte produced; three copies")
    row("memory loaded, anonymous, sum of the brokers", "MiB", "what the limits of three pods must leave room for")
    row = group("cluster_rates")
    for mb_per_s in CLUSTER_RATES_MB_PER_S:
        at = f"at {mb_per_s} MB/s"
        row(f"produce p50 {at}", "ms", "half of the requests, from when they were due; the same load for all clusters")
        row(f"produce p99 {at}", "ms", "one request in a hundred is slower")
        row(f"produce p99.9 {at}", "ms", "one request in a thousand is slower")
        row(f"produce max {at}", "ms", "the slowest request")
        row(f"rate reached {at}", "MB/s", "below the rate asked for: the cluster cannot keep up", is_compared=False)
        row(f"CPU {at}", "s/GiB", "of all brokers, client not")
    row = group("one_in_flight")
    row("one producer, one 1 KiB record in flight, p50", "ms", "a caller that waits for acks")
    row("one producer, one 1 KiB record in flight, p99", "ms", "a caller that waits for each ack")
    row("one producer, one 1 KiB record in flight", "acks/s", "how many it gets done")
    row = group("idle")
    row(f"CPU of the idle cluster, {SHARDS} partitions", "% of a core", "sum of the brokers without any client")
    row("memory of the idle cluster, anonymous, sum of the brokers", "MiB", "after the loads above")
    row = group("catch_up")
    row("catch-up of a broker that was away", "MB/s", "what it missed, by the time from its start until it is in sync")
    row("catch-up, time until in sync", "s", "how long the others must not fail", is_compared=False)
    row("bytes that it missed", "MB", "as many as the load reached while it was away", is_compared=False)
    row(f"produce p99 at {AWAY_RATE} MB/s while one broker is away", "ms", "the other two alone")
    row(f"produce p99 at {AWAY_RATE} MB/s during the catch-up", "ms", "what producers notice of it: the worst of the loads")
    row(f"produce max at {AWAY_RATE} MB/s during the catch-up", "ms", "the slowest request")
    return found
