"""Consumers follow the load (two tests at a time, they cost CPU): real consumers in a Deployment, messages with ids, and every id processed in the end."""

import time

import pytest
from harness import Load, holds, kubectl, note, operator_down, read_until, send, wait

# Times that keep the tests short; simulations test the scaling policy.
QUICK = {"idleSeconds": 10, "scaleDownStabilizationSeconds": 20, "targetDrainSeconds": 20}


def scaled(space, name="orders", partitions=6, rate=20, scaling=None, **environment):
    """A queue with a Deployment of workers that report processed messages in the queue `done`; returns the bootstrap."""
    group = f"{space.name}.{name}.worker"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    consumer = {"name": "worker", "targetRef": target, "scaling": {**QUICK, **(scaling or {})}}
    bootstrap = f"default-bootstrap.{space.name}.svc:9092"
    space.worker("worker", name, group, bootstrap, rate=rate, replicas=0, DONE="done", PARTITIONS=partitions, **environment)
    space.queue(name, partitions=partitions, consumers=[consumer])
    space.queue("done", partitions=4)
    assert space.ready(name) == bootstrap
    space.ready("done")
    return bootstrap


def consumer_of(space, name="orders"):
    consumers = space.status(name).get("consumers", [])
    return consumers[0] if consumers else {}


def replicas_are(space, right, seconds, what):
    def look():
        replicas = space.replicas("worker")
        return right(replicas), (replicas, consumer_of(space), space.status()["conditions"])

    wait(what, seconds, look, every=0.5)


def all_done(space, bootstrap, ids, seconds=120):
    """Waits until every acknowledged message is processed, and the length is zero."""
    missing = set(ids) - set(map(int, read_until(bootstrap, "done", lambda seen: set(ids) <= set(map(int, seen)), seconds)))
    assert not missing, f"{len(missing)} of {len(ids)} messages were not processed within {seconds} s"
    wait("the queue is empty", 45, lambda: (space.status().get("length") == 0, space.status()), every=1)


@pytest.mark.xdist_group("scaling-0")
def test_from_zero_to_many_and_back(space):
    """0 → N → 0 with the load; each message is processed, and each step has an Event."""
    bootstrap = scaled(space)
    replicas_are(space, lambda n: n == 0, 20, "no consumer without messages")
    began, highest, steps = time.monotonic(), 0, []
    with Load(bootstrap, "orders", per_second=80, keys=lambda i: str(i).encode()) as load:
        while time.monotonic() - began < 60:
            now = space.replicas("worker")
            if not steps or steps[-1][1] != now:
                steps.append((round(time.monotonic() - began), now))
            highest = max(highest, now)
            time.sleep(0.5)
        # 80 a second at 20 a second each, 85 % busy: five, and six is the next that helps.
        replicas_are(space, lambda n: n >= 5, 60, "enough consumers for the load")
    all_done(space, bootstrap, load.acked)
    replicas_are(space, lambda n: n == 0, 150, "no consumer when the queue is idle")
    events = [e for e in space.events("orders") if "cale" in e["reason"]]
    assert events, "each step has an Event"
    assert all(e["note"] for e in events)
    assert consumer_of(space).get("lastScaleReason"), consumer_of(space)
    note(f"0 → N → 0 at 80 messages/s, 20/s each: (second, consumers) {steps}")


@pytest.mark.xdist_group("scaling-1")
def test_a_constant_load_settles(space):
    bootstrap = scaled(space)
    with Load(bootstrap, "orders", per_second=40, keys=lambda i: str(i).encode()):
        time.sleep(60)
        counts = []
        end = time.monotonic() + 60
        while time.monotonic() < end:
            counts.append(space.replicas("worker"))
            time.sleep(0.5)
    changes = [(a, b) for a, b in zip(counts, counts[1:]) if a != b]
    note(f"constant load: {len(changes)} changes in the second minute {changes}, {counts[-1]} consumers for 40/s at 20/s each")
    assert len(changes) <= 1, changes
    assert 2 <= counts[-1] <= 6, counts[-1]


@pytest.mark.xdist_group("scaling-0")
def test_the_first_message_wakes_from_zero(space):
    """No message is lost or stuck, and the first one does not wait for a poll."""
    bootstrap = scaled(space, rate=0)
    replicas_are(space, lambda n: n == 0, 20, "no consumer without messages")
    for turn in range(3):
        began = time.monotonic()
        send(bootstrap, "orders", [turn])
        replicas_are(space, lambda n: n > 0, 15, "woken")
        woken = time.monotonic() - began
        all_done(space, bootstrap, range(turn + 1))
        note(f"wake from zero: replicas written after {woken:.1f} s, processed and seen after {time.monotonic() - began:.1f} s")
        replicas_are(space, lambda n: n == 0, 90, "back at zero")


@pytest.mark.alone
def test_a_message_that_comes_while_the_operator_is_down_is_not_stuck(space):
    bootstrap = scaled(space, rate=0)
    replicas_are(space, lambda n: n == 0, 20, "no consumer without messages")
    with operator_down():
        send(bootstrap, "orders", range(5))
        holds("no scaling", 3, lambda: space.replicas("worker") == 0)
    replicas_are(space, lambda n: n > 0, 60, "woken when the operator is back")
    all_done(space, bootstrap, range(5))


@pytest.mark.xdist_group("scaling-1")
def test_k3_nothing_scales_while_the_broker_cannot_be_reached(space):
    bootstrap = scaled(space)
    with Load(bootstrap, "orders", per_second=40, keys=lambda i: str(i).encode()) as load:
        replicas_are(space, lambda n: n >= 2, 90, "consumers follow the load")
    # The broker stops, and its signals with it: the consumers must not be scaled to zero.
    pod = space.broker_pod()
    assert pod
    space.patch("BrokerCluster", "default", {"spec": {"managementState": "Paused"}})
    kubectl("scale", "-n", space.name, "statefulset", "--all", "--replicas=0")
    wait("the broker is gone", 30, lambda: (not space.broker_pod(), None))
    time.sleep(5)
    before = space.replicas("worker")
    holds("the number stays", 45, lambda: (space.replicas("worker") == before, space.replicas("worker")))
    kubectl("scale", "-n", space.name, "statefulset", "--all", "--replicas=1")
    space.patch("BrokerCluster", "default", {"spec": {"managementState": "Managed"}})
    all_done(space, bootstrap, load.acked, seconds=180)
    replicas_are(space, lambda n: n == 0, 150, "a freeze ends")


@pytest.mark.xdist_group("scaling-0")
def test_a_hot_partition_is_recognised(space):
    """All messages have one key: more consumers cannot help, and the partition is named."""
    bootstrap = scaled(space, scaling={"minReplicas": 1})
    with Load(bootstrap, "orders", per_second=50, keys=lambda i: b"the same"):
        found = space.condition("Queue", "orders", "ScalingLimited", seconds=150, reason="HotPartition")
        note(f"hot partition, {space.replicas('worker')} consumers: {found['message']}")


@pytest.mark.xdist_group("scaling-1")
def test_a_saturated_downstream_is_recognised(space):
    """The workers together process 30 a second, whatever their number."""
    bootstrap = scaled(space, rate=0, scaling={"minReplicas": 1}, DOWNSTREAM=30)
    with Load(bootstrap, "orders", per_second=80, keys=lambda i: str(i).encode()):
        found = space.condition("Queue", "orders", "ScalingLimited", seconds=240, reason="DownstreamSaturated")
        note(f"saturated downstream: {found['message']}")


@pytest.mark.xdist_group("scaling-0")
def test_it_does_not_fight_an_autoscaler(space):
    bootstrap = scaled(space, rate=0)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    space.create("HorizontalPodAutoscaler", "worker", {"scaleTargetRef": target, "maxReplicas": 3, "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]})
    found = space.condition("Queue", "orders", "ScalingActive", status="False", seconds=90, reason="ConflictingAutoscaler")
    assert "worker" in found["message"]
    send(bootstrap, "orders", range(10))
    holds("the operator does not write", 10, lambda: space.replicas("worker") == 0)


@pytest.mark.xdist_group("scaling-1")
def test_a_missing_target_is_said(space):
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "not-there"}
    space.queue(consumers=[{"name": "worker", "targetRef": target}])
    space.ready()
    found = space.condition("Queue", "orders", "ScalingActive", status="False", seconds=60)
    assert "not-there" in found["message"], found
