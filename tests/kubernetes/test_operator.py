"""The operator itself: idle when nothing changes, killed, upgraded, doubled, disconnected."""

import threading
import time

import pytest
from conftest import operator_ready
from harness import (
    KUBE, ROOT, SYSTEM, Audit, Load, api, condition_of, helm, kubectl, note, operator_log, operator_pods, path_of,
    read_all, run, scale_operator, wait,
)

# All of them change the operator, or count what it does.
pytestmark = pytest.mark.alone


def lease():
    leases = api.request("GET", path_of("coordination.k8s.io/v1", "leases", SYSTEM))["items"]
    return next(lease for lease in leases if "ropewalk" in lease["metadata"]["name"])


def held_by_one_that_runs():
    """The holder's name in the Lease, once it is one of the existing pods."""
    names = lambda: [p["metadata"]["name"] for p in operator_pods()]
    holder = lambda: lease()["spec"].get("holderIdentity") or ""
    wait("one of the operators holds the Lease", 60, lambda: (any(name in holder() for name in names()), (holder(), names())))
    return holder()


def broker_uids():
    pods = api.request("GET", "/api/v1/pods?labelSelector=ropewalk.dev/broker-id")["items"]
    return {p["metadata"]["uid"] for p in pods if not p["metadata"].get("deletionTimestamp")}


def test_k1_a_converged_reconcile_writes_nothing(space):
    """Checks the API server's audit log during a full resync; only status metrics may be written."""
    space.queue(consumers=[{"name": "worker"}])
    space.ready()
    space.queue("second", deletionPolicy="Delete")
    space.ready("second")
    time.sleep(20)
    audit = Audit()
    time.sleep(75)
    writes = [w for w in audit.writes(space) if not w["status"]]
    assert not writes, writes[:5]
    status_writes = [w for w in audit.writes(space) if w["status"]]
    # Metrics are written at most every 30 s for each object.
    assert len(status_writes) <= 12, [(w["uri"], w["body"]) for w in status_writes][:6]
    note(f"converged, 75 s: no write but {len(status_writes)} of status; {audit.per_minute():.0f} requests a minute in all")


def test_k1_a_new_operator_writes_nothing_either(space):
    space.queue()
    space.ready()
    # A cluster that has just become ready is recorded as formatted; after that it is converged.
    time.sleep(10)
    scale_operator(0)
    audit = Audit()
    scale_operator(1)
    time.sleep(20)
    writes = [w for w in audit.writes(space) if not w["status"]]
    assert not writes, writes[:5]


def test_an_operator_killed_in_the_middle_of_a_reconcile_leaves_nothing_half_done(space):
    """Killed repeatedly while queues are created: all of them become ready, each topic is created once."""
    stop = threading.Event()

    def killing():
        while not stop.is_set():
            for pod in operator_pods():
                kubectl("delete", "pod", "-n", SYSTEM, pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false", check=False)
            time.sleep(3)

    killer = threading.Thread(target=killing, daemon=True)
    killer.start()
    try:
        for number in range(12):
            space.queue(f"q{number}", partitions=2)
            time.sleep(1)
    finally:
        stop.set()
        killer.join()
    wait("an operator is ready", 60, operator_ready)
    for number in range(12):
        space.ready(f"q{number}", seconds=90)
    assert len(space.list("StatefulSet")) == 1
    assert len(space.list("PersistentVolumeClaim")) == 1


def test_an_upgrade_of_the_operator_restarts_no_broker(space):
    """k5: another release of the chart, another default image for brokers; and back again."""
    space.queue()
    bootstrap = space.ready()
    before = broker_uids()
    with Load(bootstrap, "orders", per_second=100) as load:
        helm("upgrade", "ropewalk", str(ROOT / "charts/ropewalk"), "-n", SYSTEM, "--set", "broker.image.tag=0.0.9,podAnnotations.release=next", "--wait", "--timeout=90s")
        time.sleep(20)
        assert broker_uids() == before
        statefulset = space.list("StatefulSet")[0]
        image = statefulset["spec"]["template"]["spec"]["containers"][0]["image"]
        assert not image.endswith("0.0.9"), "an eviction would start another release by chance"
        helm("upgrade", "ropewalk", str(ROOT / "charts/ropewalk"), "-n", SYSTEM, "--reset-values", "--wait", "--timeout=90s")
        time.sleep(5)
    assert broker_uids() == before
    assert not load.errors
    assert not load.acked - {int(v) for v in read_all(bootstrap, "orders")}


def test_kinds_and_queues_survive_uninstalling_and_installing_again(space):
    space.queue()
    space.ready()
    queue, brokers = space.get("Queue", "orders")["metadata"]["uid"], broker_uids()
    definition = api.request("GET", path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", None, "queues.ropewalk.dev"))
    helm("uninstall", "ropewalk", "-n", SYSTEM, "--wait")
    assert space.get("Queue", "orders")["metadata"]["uid"] == queue
    assert broker_uids() == brokers, "brokers go on without an operator"
    helm("install", "ropewalk", str(ROOT / "charts/ropewalk"), "-n", SYSTEM, "--wait", "--timeout=90s")
    again = api.request("GET", path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", None, "queues.ropewalk.dev"))
    assert again["metadata"]["uid"] == definition["metadata"]["uid"]
    space.ready()
    assert broker_uids() == brokers


def test_two_operators_agree_on_one(space):
    """k2: one holds the Lease; when it dies the other continues with a higher epoch, and never both at once."""
    scale_operator(2)
    try:
        held = held_by_one_that_runs()
        space.queue()
        space.ready()
        audit = Audit()
        space.queue("second")
        space.ready("second")
        writers = {(e["sourceIPs"][0]) for e in audit.entries() if e["verb"] in ("create", "patch", "update") and e["objectRef"]["resource"] != "leases"}
        assert len(writers) <= 1, f"both operators write: {writers}"
        holder = next(p for p in operator_pods() if p["metadata"]["name"] in held)
        began = time.monotonic()
        kubectl("delete", "pod", "-n", SYSTEM, holder["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
        wait("another holds the Lease", 60, lambda: (lease()["spec"].get("holderIdentity") not in (held, "", None), lease()["spec"]))
        note(f"operator killed: another took over after {time.monotonic() - began:.1f} s")
        space.queue("third")
        space.ready("third")
    finally:
        scale_operator(1)


def test_the_node_of_the_operator_is_cut_off(space):
    """Another operator takes over; the disconnected one changes nothing, also after it is connected again."""
    scale_operator(2)
    node = None
    try:
        space.queue()
        bootstrap = space.ready()
        nodes = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in operator_pods()}
        held = held_by_one_that_runs()
        holder = next(name for name in nodes if name in held)
        other = next(name for name in nodes if name != holder)
        broker = space.broker_pod()["spec"]["nodeName"]
        if nodes[other] == nodes[holder] or broker == nodes[holder]:
            # The other operator and the broker have to be elsewhere: move them.
            kubectl("cordon", nodes[holder])
            try:
                for namespace, name in [(SYSTEM, other)] * (nodes[other] == nodes[holder]) + [(space.name, space.broker_pod()["metadata"]["name"])] * (broker == nodes[holder]):
                    kubectl("delete", "pod", "-n", namespace, name, "--wait", "--timeout=60s")
                wait("both are elsewhere and ready", 60, operator_ready)
                space.ready(seconds=60)
            finally:
                kubectl("uncordon", nodes[holder])
        node = nodes[holder]
        began = time.monotonic()
        run(str(KUBE / "link"), node, "down")
        wait("another holds the Lease", 90, lambda: (lease()["spec"].get("holderIdentity") not in (held, "", None), lease()["spec"]))
        note(f"operator cut off: another took over after {time.monotonic() - began:.1f} s")
        space.queue("second")
        space.ready("second")
        run(str(KUBE / "link"), node, "up")
        node = None
        wait("all nodes are ready", 60, lambda: (kubectl("get", "nodes").count(" Ready") == 3, kubectl("get", "nodes")))
        time.sleep(10)
        space.queue("third")
        space.ready("third")
        assert bootstrap
    finally:
        if node:
            run(str(KUBE / "link"), node, "up")
        scale_operator(1)


def test_kinds_that_are_missing_are_waited_for(operator):
    """No crash: not ready, with the reason, until the kinds exist; other tests' queues are not affected."""
    definition = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", None, "queues.ropewalk.dev")
    queues = api.request("GET", "/apis/ropewalk.dev/v1alpha1/queues")["items"]
    wait("no queue is left of other tests", 90, lambda: (not api.request("GET", "/apis/ropewalk.dev/v1alpha1/queues")["items"], len(queues)))
    scale_operator(0)
    api.request("DELETE", definition)
    wait("the kind is gone", 30, lambda: api.request("GET", definition) is None)
    try:
        api.request("PATCH", path_of("apps/v1", "deployments", SYSTEM, "ropewalk-operator") + "/scale", {"spec": {"replicas": 1}}, "application/merge-patch+json")
        wait("it runs", 30, lambda: operator_pods() and operator_pods()[0]["status"].get("phase") == "Running")
        time.sleep(10)
        pod = operator_pods()[0]
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, "it waits, it does not crash"
        assert condition_of(pod, "Ready")["status"] == "False", "it is not ready without the kinds"
    finally:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    wait("it is ready", 60, operator_ready)


def test_its_log_is_clean(operator):
    """After all tests above: no log line mentions a panic."""
    lines = operator_log()
    assert lines, "it logs JSON"
    assert not [line for line in lines if "panick" in str(line)]
