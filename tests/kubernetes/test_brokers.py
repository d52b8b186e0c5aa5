"""Brokers under load: kill, restart after a configuration change, volume growth, hibernation; no acknowledged loss."""

import re
import shutil
from pathlib import Path

import pytest
from harness import Load, api, kubectl, path_of, read_all, send, wait


@pytest.fixture
def loaded(space):
    """A queue under constant load from a real client, checked at the end."""
    space.queue(partitions=4)
    bootstrap = space.ready()
    with Load(bootstrap, "orders", per_second=200) as load:
        wait("the load runs", 30, lambda: (len(load.acked) > 100, load.errors))
        yield space, bootstrap, load
    assert not load.errors, load.errors[:3]
    assert len(load.acked) == load.sent
    seen = read_all(bootstrap, "orders")
    missing = load.acked - {int(v) for v in seen}
    assert not missing, f"{len(missing)} of {len(load.acked)} acknowledged messages are lost"
    assert len(seen) == len(set(seen)), "messages are there twice"


def flows_again(load, seconds=60):
    """Waits until messages that were sent after this call are acknowledged."""
    sent = load.sent
    wait("messages are acknowledged again", seconds, lambda: (any(n > sent for n in list(load.acked)), load.errors[:3]))


def broker_uid(space, cluster="default"):
    pod = space.broker_pod(cluster)
    return pod and pod["metadata"]["uid"]


def new_broker(space, old, seconds=90):
    def look():
        pod = space.broker_pod()
        ready = pod and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        return ready and pod["metadata"]["uid"] != old, pod and pod["status"]

    wait("another broker pod is ready", seconds, look)


def test_a_killed_broker_loses_nothing(loaded):
    space, _, load = loaded
    pod = space.broker_pod()
    kubectl("delete", "pod", "-n", space.name, pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
    new_broker(space, pod["metadata"]["uid"])
    flows_again(load)


def test_a_setting_that_needs_a_restart_restarts_the_broker_once(loaded):
    space, _, load = loaded
    old = broker_uid(space)
    space.patch("BrokerCluster", "default", {"spec": {"config": {"num.partitions": "7"}}})
    new_broker(space, old)
    flows_again(load)
    space.condition("BrokerCluster", "default", "ConfigurationApplied", seconds=60)
    assert condition_is_not(space, "RestartPending")


def test_a_setting_that_needs_none_is_applied_at_once(loaded):
    space, _, load = loaded
    old = broker_uid(space)
    space.patch("BrokerCluster", "default", {"spec": {"config": {"log.retention.ms": "3600000"}}})
    generation = space.get("BrokerCluster", "default")["metadata"]["generation"]
    wait("the operator saw it", 30, lambda: space.status("default", "BrokerCluster").get("observedGeneration") == generation)
    space.condition("BrokerCluster", "default", "ConfigurationApplied", seconds=60)
    assert broker_uid(space) == old, "a restart was not needed"
    flows_again(load)


def test_a_supervised_rollout_waits_for_a_person(space):
    space.queue()
    space.ready()
    old = broker_uid(space)
    space.patch("BrokerCluster", "default", {"spec": {"rollout": {"strategy": "Supervised"}, "config": {"num.partitions": "7"}}})
    found = space.condition("BrokerCluster", "default", "RestartPending", seconds=60)
    assert found["message"], "it says what to do"
    assert broker_uid(space) == old


def test_a_volume_grows_under_load(loaded):
    space, _, load = loaded
    old = broker_uid(space)
    claims = space.list("PersistentVolumeClaim")
    space.patch("BrokerCluster", "default", {"spec": {"storage": {"size": "30Gi"}}})

    def grown():
        claims = space.list("PersistentVolumeClaim")
        return all(c["status"].get("capacity", {}).get("storage") == "30Gi" for c in claims), [c["status"] for c in claims]

    assert len(claims) == 1
    wait("the volume has grown", 60, grown)
    space.condition("BrokerCluster", "default", "StorageResized", seconds=60)
    assert broker_uid(space) == old, "growing restarts nothing"
    flows_again(load)


def test_a_hibernated_cluster_wakes_with_its_data(space):
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(100))
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Hibernated"}})
    wait("no broker runs", 60, lambda: (not space.broker_pod(), space.status("default", "BrokerCluster")))
    assert len(space.list("PersistentVolumeClaim")) == 1
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Running"}})
    wait("a broker runs", 60, lambda: (space.status("default", "BrokerCluster").get("readyReplicas") == 1, space.status("default", "BrokerCluster")))
    space.ready()
    assert sorted(map(int, read_all(bootstrap, "orders"))) == list(range(100))


def test_a_lost_volume_is_said_and_never_a_fresh_start(space):
    """d4: an empty disk with an old identity is lost data."""
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(10))
    # From here on the operator knows that the broker has data, and no longer lets it format a volume.
    wait("formatted", 30, lambda: (space.status("default", "BrokerCluster")["brokers"][0]["formatted"], space.status("default", "BrokerCluster")))
    wait("formatting is no longer allowed", 30, lambda: (not is_format_allowed(space), None))
    claim = space.list("PersistentVolumeClaim")[0]
    volume = api.request("GET", path_of("v1", "persistentvolumes", None, claim["spec"]["volumeName"]))
    pod = space.broker_pod()
    for entry in Path(volume["spec"]["hostPath"]["path"]).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    kubectl("delete", "pod", "-n", space.name, pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
    found = space.condition("BrokerCluster", "default", "DataLost", seconds=90)
    assert found["message"]
    ready = space.condition("BrokerCluster", "default", "Ready", status="False", seconds=30)
    assert ready["message"]
    # The remedy in the message restores the broker, empty; once, and for this volume only.
    annotation, _, uid = next(word for word in re.split("[\\s`;,]", found["message"]) if "accept-data-loss=" in word).partition("=")
    assert uid == claim["metadata"]["uid"]
    space.patch("BrokerCluster", "default", {"metadata": {"annotations": {annotation: uid}}})
    space.condition("BrokerCluster", "default", "Ready", seconds=120)
    space.ready()
    assert read_all(bootstrap, "orders") == []
    used = lambda: annotation not in space.get("BrokerCluster", "default")["metadata"].get("annotations", {})
    wait("the acceptance is used up", 60, lambda: (used(), None))


def is_format_allowed(space):
    return any("format.cluster.id" in str(c.get("data", {})) for c in space.list("ConfigMap"))


def condition_is_not(space, condition):
    conditions = space.status("default", "BrokerCluster").get("conditions", [])
    return not any(c["type"] == condition and c["status"] == "True" for c in conditions)
