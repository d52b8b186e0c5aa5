"""A thousand queues: prints metrics of the operator."""

import time

import pytest
from harness import SYSTEM, Audit, kubectl, note, operator_pods, wait

QUEUES = 1000


def memory_and_cpu():
    """Resident memory in MiB and CPU seconds of the operator, from its own metrics or the kernel."""
    pod = operator_pods()[0]
    answer = kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:8080/proxy/metrics")
    metrics = {}
    for line in answer.splitlines():
        name, _, value = line.partition(" ")
        metrics[name] = value
    return float(metrics.get("process_resident_memory_bytes", "nan")) / 2**20, float(metrics.get("process_cpu_seconds_total", "nan"))


@pytest.mark.soak
@pytest.mark.alone
def test_a_thousand_queues(space):
    space.queue("first", partitions=1)
    space.ready("first")
    began = time.monotonic()
    for number in range(QUEUES):
        space.queue(f"q{number}", partitions=1)
    made = time.monotonic()

    def ready():
        items = space.list("Queue")
        good = sum(any(c["type"] == "Ready" and c["status"] == "True" for c in q.get("status", {}).get("conditions", [])) for q in items)
        return good == QUEUES + 1, good

    wait("all are ready", 900, ready, every=2)
    converged = time.monotonic()
    # The budget for all Queues is five status writes a second.
    metrics = lambda: sum("length" in q.get("status", {}) for q in space.list("Queue"))
    wait("all have metrics", 400, lambda: (metrics() == QUEUES + 1, metrics()), every=5)
    shown = time.monotonic()
    time.sleep(60)
    audit, (_, cpu_before) = Audit(), memory_and_cpu()
    time.sleep(120)
    memory, cpu = memory_and_cpu()
    a_minute = audit.per_minute()
    note(
        f"{QUEUES} queues: made in {made - began:.0f} s, all ready {converged - made:.0f} s later, all with "
        f"metrics {shown - made:.0f} s later; idle: "
        f"{a_minute:.0f} API requests a minute, {memory:.0f} MiB, {100 * (cpu - cpu_before) / 120:.1f} % of a core"
    )
    writes = [w for w in audit.writes(space) if not w["status"]]
    assert not writes, writes[:5]
    assert memory <= 64 and a_minute <= 60
