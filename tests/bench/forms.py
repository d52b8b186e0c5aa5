"""How much work a run does: the forms of the benchmark."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Form:
    """One form. Times are in seconds."""

    name: str
    rounds: int
    load_seconds: float
    # Loads whose figures depend on what a server puts off: 1 KiB at full speed, and the fixed rates.
    held_seconds: float
    latency_seconds: float
    stock_bytes: int
    # Connections, requests in flight, and KiB of a batch that the sweep combines.
    sweep: tuple
    sweep_seconds: float
    queues: tuple
    # Share of the cgroup's limit that is written before anything is measured.
    warm_share: float
    warm_seconds: float
    idle_seconds: float
    # How long to wait at most until the disk is quiet after a load.
    quiet_seconds: float
    # Random bytes from which the native client cuts its payload.
    ring_bytes: int
    probe_bytes: int
    probe_seconds: float
    # Clusters: how long an idle one is watched, and what a broker misses that is away, in bytes.
    idle_measured_seconds: float
    # A JVM compiles for half a minute on two cores that three of them share.
    cluster_warm_seconds: float
    missed_bytes: int
    # What a topic keeps, so that a long load does not fill the disk. None keeps all.
    retain_bytes: int | None
    # Free space that the disk needs.
    disk_gib: int


WHOLE_SWEEP = ((1, 4, 16), (1, 5, 20), (4, 16, 64))
FORMS = {
    "check": Form(
        "check", rounds=1, load_seconds=0.3, held_seconds=0.3, latency_seconds=0.3, stock_bytes=2_000_000, sweep=((1, 4), (1,), (16, 64)),
        sweep_seconds=0.2, queues=(1, 1000), warm_share=0.01, warm_seconds=0.2, idle_seconds=0.2, quiet_seconds=0.1,
        ring_bytes=4 << 20, probe_bytes=64 << 20, probe_seconds=0.2, idle_measured_seconds=1, cluster_warm_seconds=0.2, missed_bytes=10 << 20, retain_bytes=None, disk_gib=3,
    ),
    "quick": Form(
        "quick", rounds=1, load_seconds=3, held_seconds=3, latency_seconds=3, stock_bytes=100_000_000, sweep=((1, 4), (1, 5), (16, 64)),
        sweep_seconds=1, queues=(1, 1000), warm_share=1.1, warm_seconds=2, idle_seconds=3, quiet_seconds=20,
        ring_bytes=64 << 20, probe_bytes=GIB, probe_seconds=2, idle_measured_seconds=8, cluster_warm_seconds=30, missed_bytes=GIB // 2, retain_bytes=None, disk_gib=14,
    ),
    "default": Form(
        "default", rounds=3, load_seconds=10, held_seconds=10, latency_seconds=10, stock_bytes=600_000_000, sweep=WHOLE_SWEEP,
        sweep_seconds=2, queues=(1, 1000, 10000), warm_share=1.1, warm_seconds=5, idle_seconds=3, quiet_seconds=30,
        ring_bytes=64 << 20, probe_bytes=GIB, probe_seconds=3, idle_measured_seconds=15, cluster_warm_seconds=45, missed_bytes=GIB, retain_bytes=None, disk_gib=20,
    ),
    "long": Form(
        "long", rounds=3, load_seconds=10, held_seconds=60, latency_seconds=10, stock_bytes=600_000_000, sweep=WHOLE_SWEEP,
        sweep_seconds=2, queues=(1, 1000, 10000), warm_share=1.1, warm_seconds=10, idle_seconds=3, quiet_seconds=60,
        ring_bytes=64 << 20, probe_bytes=2 * GIB, probe_seconds=10, idle_measured_seconds=30, cluster_warm_seconds=60, missed_bytes=4 * GIB, retain_bytes=8 * GIB, disk_gib=24,
    ),
}  # fmt: skip
