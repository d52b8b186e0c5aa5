"""Volumes and settings at risk: claims that are deleted under a broker, foreign claims with our labels, damage in a
serving pod, changes while a broker does not answer, tools that prune."""

import os
import signal
import time
from pathlib import Path

import pytest
from harness import (
    Audit, Load, Refused, api, condition_of, kubectl, path_of, read_all, send, wait,
)

WARNING_SECONDS = 60


def claim_of(space):
    claim = space.get("PersistentVolumeClaim", "data-default-broker-0")
    assert claim, "there is no claim"
    return claim


def volume_of(claim):
    return api.request("GET", path_of("v1", "persistentvolumes", None, claim["spec"]["volumeName"]))


def broker_uid(space):
    pod = space.broker_pod()
    return pod and pod["metadata"]["uid"]


def stays(space, uid, seconds):
    """Asserts that the broker's pod stays the same for this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert broker_uid(space) == uid, "the broker was stopped"
        time.sleep(1)


def warned(space, reason, name="default"):
    wait(f"a Warning {reason}", WARNING_SECONDS, lambda: ([e for e in space.events(name, reason) if e["type"] == "Warning"], space.events(name)))


def is_format_allowed(space):
    return any("format.cluster.id" in str(c.get("data", {})) for c in space.list("ConfigMap"))


def formatted(space):
    """Waits until the cluster is recorded as formatted and its settings no longer allow to format."""

    def look():
        status = space.status("default", "BrokerCluster")
        return any(b["formatted"] for b in status.get("brokers", [])), status

    wait("formatted", 30, look)
    wait("formatting is no longer allowed", 30, lambda: (not is_format_allowed(space), None))


def annotate(space, **annotations):
    space.patch("BrokerCluster", "default", {"metadata": {"annotations": {f"ropewalk.dev/{k}": v for k, v in annotations.items()}}})


@pytest.fixture
def filled(space):
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(50))
    formatted(space)
    return space, bootstrap


# --- a claim that is deleted under its broker -------------------------------------------------------------------


def test_k4_no_restart_no_hibernation_and_no_rollout_stops_a_broker_whose_claim_was_deleted(filled):
    space, bootstrap = filled
    uid, claim = broker_uid(space), claim_of(space)
    space.remove("PersistentVolumeClaim", claim["metadata"]["name"])
    wait("the claim is being deleted", 20, lambda: claim_of(space)["metadata"].get("deletionTimestamp"))
    found = space.condition("BrokerCluster", "default", "DataAtRisk", seconds=30, reason="VolumeDeleting")
    assert claim["spec"]["volumeName"] in found["message"] and "Retain" in found["message"], found["message"]
    warned(space, "VolumeDeleting")
    # Every change that would otherwise stop the broker.
    annotate(space, restart="1")
    space.patch("BrokerCluster", "default", {"spec": {"config": {"num.partitions": "7"}}})
    stays(space, uid, 20)
    space.condition("BrokerCluster", "default", "RestartPending", reason="VolumeDeleting", seconds=30)
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Hibernated"}})
    # Hibernation waits for consumers, at most a minute.
    stays(space, uid, 75)
    space.condition("BrokerCluster", "default", "Progressing", status="False", reason="VolumeDeleting", seconds=60)
    assert len(read_all(bootstrap, "orders")) == 50, "it serves as before"


def test_k4_a_deleted_claim_is_rescued_as_its_condition_says(filled):
    """All steps of operator/README.md: no message is lost."""
    space, bootstrap = filled
    claim, uid = claim_of(space), broker_uid(space)
    volume = claim["spec"]["volumeName"]
    space.remove("PersistentVolumeClaim", claim["metadata"]["name"])
    space.condition("BrokerCluster", "default", "DataAtRisk", seconds=30)
    kubectl("patch", "pv", volume, "-p", '{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}')
    space.patch("BrokerCluster", "default", {"spec": {"managementState": "Paused"}})
    kubectl("delete", "pod", "-n", space.name, "default-broker-0-0", "--wait=false")
    wait("the claim is gone", 90, lambda: (space.get("PersistentVolumeClaim", claim["metadata"]["name"]) is None, None))
    wait("the volume is released", 60, lambda: (volume_of(claim)["status"]["phase"] == "Released", volume_of(claim)["status"]))
    kubectl("patch", "pv", volume, "--type=merge", "-p", '{"spec":{"claimRef":{"uid":null,"resourceVersion":null}}}')
    space.patch("BrokerCluster", "default", {"spec": {"managementState": "Managed"}})
    wait("the claim has its volume again", 60, lambda: ((claim_of(space)["spec"].get("volumeName")) == volume, claim_of(space)))
    space.condition("BrokerCluster", "default", "DataAtRisk", status="False", seconds=60)
    wait("another pod runs", 120, lambda: (broker_uid(space) not in (uid, None), None))
    # The conditions of a Queue outlive a short outage, so the cluster's own is asked for.
    space.condition("BrokerCluster", "default", "Ready", seconds=120)
    space.ready(seconds=120)
    assert sorted(map(int, read_all(bootstrap, "orders"))) == list(range(50))


def test_k4_a_claim_that_lost_its_volume_stops_every_restart(filled):
    space, _ = filled
    claim, uid = claim_of(space), broker_uid(space)
    name = claim["spec"]["volumeName"]
    path = path_of("v1", "persistentvolumes", None, name)
    # The volume's object is removed although it is in use: the finalizer is removed by hand.
    api.request("DELETE", path)
    api.request("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    wait("the claim is lost", 60, lambda: (claim_of(space)["status"]["phase"] == "Lost", claim_of(space)["status"]))
    space.condition("BrokerCluster", "default", "DataAtRisk", reason="VolumeLost", seconds=90)
    annotate(space, restart="1")
    stays(space, uid, 20)
    space.condition("BrokerCluster", "default", "RestartPending", reason="VolumeLost", seconds=30)


# --- foreign claims with our labels -----------------------------------------------------------------------------


def copy_of(claim, name):
    """A restored copy of a claim with all labels, as backup tools create it."""
    meta = claim["metadata"]
    spec = {key: claim["spec"][key] for key in ("accessModes", "resources", "storageClassName") if key in claim["spec"]}
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": spec,
        "metadata": {"name": name, "labels": meta["labels"], "annotations": {"ropewalk.dev/formatted": "true"}},
    }


def test_k4_a_copy_of_a_claim_with_all_labels_is_neither_believed_nor_deleted(space):
    space.create("BrokerCluster", "default", {"deletionPolicy": "Delete"})
    space.queue()
    space.ready()
    formatted(space)
    claim = claim_of(space)
    copy = copy_of(claim, "restored-copy")
    copy["spec"]["resources"] = {"requests": {"storage": "99Gi"}}
    api.request("POST", path_of("v1", "persistentvolumeclaims", space.name), copy)
    time.sleep(15)
    audit = Audit()
    time.sleep(70)
    writes = [w for w in audit.writes(space) if not w["status"]]
    assert not writes, f"k1: the copy is compared with what is wanted: {writes[:3]}"
    assert claim_of(space)["spec"]["resources"]["requests"]["storage"] == claim["spec"]["resources"]["requests"]["storage"]
    # Its uid accepts no loss.
    annotate(space, **{"accept-data-loss": space.get("PersistentVolumeClaim", "restored-copy")["metadata"]["uid"]})
    time.sleep(10)
    assert not is_format_allowed(space)
    space.remove("Queue", "orders")
    space.remove("BrokerCluster", "default")
    wait("the cluster is gone", 60, lambda: (space.get("BrokerCluster", "default") is None, space.get("BrokerCluster", "default")))
    wait("its volume is gone", 90, lambda: (space.get("PersistentVolumeClaim", claim["metadata"]["name"]) is None, None))
    assert space.get("PersistentVolumeClaim", "restored-copy"), "a foreign copy was deleted"


def test_a_pod_with_copied_labels_gets_no_clients_and_is_no_broker(filled):
    """A console or a debug pod with the labels of a cluster is not a broker endpoint."""
    space, _ = filled
    labels = {"ropewalk.dev/cluster": "default", "app.kubernetes.io/component": "console"}
    api.request("POST", path_of("v1", "pods", space.name), {
        "metadata": {"name": "console", "labels": labels},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": "localhost/ropewalk-test-client:1", "imagePullPolicy": "Never",
                # The image has Python and nothing else.
                "args": ["-c", "import time; time.sleep(600)"],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
    wait("it runs", 60, lambda: (space.get("Pod", "console")["status"].get("phase") == "Running", space.get("Pod", "console")["status"]))
    time.sleep(5)
    slices = api.request("GET", path_of("discovery.k8s.io/v1", "endpointslices", space.name) + "?labelSelector=kubernetes.io/service-name=default-bootstrap")["items"]
    targets = [e["targetRef"]["name"] for s in slices for e in s.get("endpoints") or []]
    assert targets == ["default-broker-0-0"], targets


# --- damage and a full disk keep readiness ----------------------------------------------------------------------


def data_directory(space):
    return Path(volume_of(claim_of(space))["spec"]["hostPath"]["path"]) / "data"


def damage_one_partition(space):
    """Removes the oldest segment of the partition with the most segments, while the broker is stopped.

    A start detects a missing segment; a changed byte in a segment is detected only when it is read.
    """
    partitions = {}
    for path in data_directory(space).rglob("*.log"):
        if path.stem.isdigit():
            partitions.setdefault(path.parent, []).append(path)
    segments = max(partitions.values(), key=len, default=[])
    assert len(segments) >= 2, f"no partition has two segments on disk: {partitions}"
    min(segments).unlink()


def test_a_damaged_partition_takes_the_cluster_from_nobody(space):
    """Pod ready, Service with endpoint, the other queue served, new queues declared; the damage is a condition."""
    space.queue("orders", partitions=1, config={"segment.bytes": "1048576"})
    space.queue("other", partitions=1)
    bootstrap = space.ready("orders")
    space.ready("other")
    formatted(space)
    send(bootstrap, "other", range(20))
    send(bootstrap, "orders", ["x" * 100_000 for _ in range(64)])
    # Segments on disk are read again only after a start.
    time.sleep(70)
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Hibernated"}})
    # Including pods that are being terminated: their process still writes.
    wait("no broker runs", 120, lambda: (not space.list("Pod", selector="ropewalk.dev/cluster=default"), None))
    damage_one_partition(space)
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Running"}})
    space.condition("BrokerCluster", "default", "Degraded", seconds=120)
    warned(space, "PartitionsDamaged")
    space.condition("BrokerCluster", "default", "Ready", seconds=30)
    assert sorted(map(int, read_all(bootstrap, "other"))) == list(range(20))
    space.queue("third", partitions=1)
    space.ready("third")


@pytest.mark.long
def test_a_full_volume_gets_the_retention_that_makes_room(space):
    """StorageFull is reported; a shorter retention reaches the broker while it is full, and the condition ends."""
    space.create("BrokerCluster", "default", {"storage": {"size": "512Mi", "storageClassName": "small"}})
    space.queue("orders", partitions=1, retention={"maxAgeSeconds": 86400}, config={"segment.bytes": "1048576"})
    bootstrap = space.ready("orders")
    formatted(space)
    with Load(bootstrap, "orders", per_second=5):
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", retries=0, request_timeout_ms=5000, delivery_timeout_ms=10_000, linger_ms=0)

        def full():
            try:
                for _ in range(20):
                    producer.send("orders", b"x" * 900_000).get(timeout=12)
            except KafkaError:
                pass  # Refused; the condition shows whether because of the full disk.
            found = condition_of(space.get("BrokerCluster", "default"), "StorageFull")
            return found and found["status"] == "True", found

        wait("the volume is full", 300, full)
        producer.close(5)
        space.condition("BrokerCluster", "default", "Ready", seconds=30)
        space.patch("Queue", "orders", {"spec": {"retention": {"maxSize": "8Mi"}}})
        space.condition("BrokerCluster", "default", "StorageFull", status="False", seconds=180)


# --- settings that change while a broker does not answer --------------------------------------------------------


def settled(space):
    status = space.status("default", "BrokerCluster")
    generation = space.get("BrokerCluster", "default")["metadata"]["generation"]
    by = {c["type"]: c["status"] for c in status.get("conditions", [])}
    right = status.get("observedGeneration") == generation and by.get("ConfigurationApplied") == "True" and by.get("RestartPending") == "False" and by.get("Ready") == "True"
    return right, status.get("conditions")


def partitions_of_a_new_topic(bootstrap, name):
    """The broker's current `num.partitions`."""
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({name: {}}, wait_for_metadata=True)
    described = admin.describe_topics([name])
    admin.close()
    return len(described[0]["partitions"])


def test_a_second_change_during_the_restart_of_the_first_is_not_lost(filled):
    space, bootstrap = filled
    old = broker_uid(space)
    space.patch("BrokerCluster", "default", {"spec": {"config": {"num.partitions": "5"}}})
    wait("the first pod is gone", 60, lambda: (broker_uid(space) != old, None), every=0.05)
    space.patch("BrokerCluster", "default", {"spec": {"config": {"num.partitions": "9"}}})
    wait("both changes are in effect", 180, lambda: settled(space))
    assert partitions_of_a_new_topic(bootstrap, "probe-a") == 9
    upgrade = condition_of(space.get("BrokerCluster", "default"), "UpgradeAvailable")
    assert upgrade["reason"] != "NewDefaults", upgrade


def broker_process(space):
    """The process of the broker, which runs on this machine: its mounts name its pod."""
    uid = broker_uid(space)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_broker = b"ropewalk-broker" in (process / "cmdline").read_bytes().split(b"\0")[0]
            if is_broker and uid in (process / "mountinfo").read_text():
                return int(process.name)
        except OSError:
            continue  # It has ended meanwhile.
    raise AssertionError(f"no process of the pod {uid} is on this machine")


def test_a_change_while_the_broker_does_not_answer_is_done_when_it_does(filled):
    space, bootstrap = filled
    old, process = broker_uid(space), broker_process(space)
    # Shorter than the time after which the kubelet kills a process that fails its liveness probe.
    os.kill(process, signal.SIGSTOP)
    try:
        space.patch("BrokerCluster", "default", {"spec": {"config": {"num.partitions": "6"}}})
        generation = space.get("BrokerCluster", "default")["metadata"]["generation"]
        wait("the operator saw it", 15, lambda: space.status("default", "BrokerCluster").get("observedGeneration") == generation)
        assert condition_of(space.get("BrokerCluster", "default"), "ConfigurationApplied")["status"] != "True"
        assert broker_uid(space) == old
    finally:
        os.kill(process, signal.SIGCONT)
    wait("the change is in effect", 180, lambda: settled(space))
    assert broker_uid(space) != old
    assert partitions_of_a_new_topic(bootstrap, "probe-b") == 6


def test_a_supervised_change_during_a_restart_still_asks_for_its_approval(filled):
    space, _ = filled
    old = broker_uid(space)
    annotate(space, restart="1")
    wait("the pod is gone", 60, lambda: (broker_uid(space) != old, None), every=0.05)
    # The settings may reach the file before the new pod mounts it; a change of the pod always needs a restart.
    pod = {"annotations": {"example.com/changed": "1"}}
    change = {"spec": {"rollout": {"strategy": "Supervised"}, "config": {"num.partitions": "8"}, "podTemplate": pod}}
    space.patch("BrokerCluster", "default", change)
    found = space.condition("BrokerCluster", "default", "RestartPending", reason="WaitingForApproval", seconds=120)
    token = found["message"].rsplit("approve-restart=", 1)[1].strip("`")
    annotate(space, **{"approve-restart": token})
    wait("the change is in effect", 180, lambda: settled(space))


# --- a StatefulSet that is edited by hand ------------------------------------------------------------------------


def test_a_stateful_set_edited_by_hand_is_put_right_and_an_eviction_starts_the_old_image(filled):
    space, _ = filled
    image = lambda: space.get("StatefulSet", "default-broker-0")["spec"]["template"]["spec"]["containers"][0]["image"]
    before, uid = image(), broker_uid(space)
    kubectl("set", "image", "-n", space.name, "statefulset/default-broker-0", "broker=localhost/none-such:1")
    wait("the image is reconciled", 30, lambda: (image() == before, image()))
    assert broker_uid(space) == uid, "nothing restarts for it"
    kubectl("delete", "pod", "-n", space.name, "default-broker-0-0", "--wait=false")
    wait("another pod runs", 90, lambda: (broker_uid(space) not in (uid, None), None))
    space.ready(seconds=120)


def test_k2_a_restart_is_an_eviction_that_a_disruption_budget_can_refuse(filled):
    space, _ = filled
    uid = broker_uid(space)
    # Evictions fail if two budgets match a pod; in both cases the broker is not stopped.
    strict = {"maxUnavailable": 0, "selector": {"matchLabels": {"ropewalk.dev/cluster": "default"}}}
    space.create("PodDisruptionBudget", "strict", strict)
    time.sleep(3)
    annotate(space, restart="1")
    space.condition("BrokerCluster", "default", "Progressing", status="False", reason="EvictionRefused", seconds=60)
    stays(space, uid, 15)
    space.remove("PodDisruptionBudget", "strict")
    wait("it is restarted", 120, lambda: (broker_uid(space) not in (uid, None), None))
    space.ready(seconds=120)


# --- deployment tools -------------------------------------------------------------------------------------------


def test_no_volume_and_no_secret_carries_what_a_deployment_tool_prunes_by(filled):
    """Tools that track by the instance label claim objects without owner, and remove them."""
    space, _ = filled
    for kind in ("PersistentVolumeClaim", "Secret"):
        for thing in space.list(kind, selector="ropewalk.dev/cluster=default"):
            meta = thing["metadata"]
            assert "app.kubernetes.io/instance" not in meta["labels"], meta["name"]
            assert "Prune=false" in meta["annotations"]["argocd.argoproj.io/sync-options"], meta["name"]
            assert meta["annotations"]["argocd.argoproj.io/compare-options"] == "IgnoreExtraneous"
    # Every object that still carries the label has an owner, which such tools respect.
    for kind in ("StatefulSet", "Service", "ConfigMap", "PodDisruptionBudget"):
        for thing in space.list(kind, selector="app.kubernetes.io/instance=default"):
            assert thing["metadata"].get("ownerReferences"), thing["metadata"]["name"]


def test_the_instance_label_of_an_older_release_is_taken_off_a_claim(filled):
    """Server-side apply removes fields that the same manager applied before and no longer sends."""
    space, _ = filled
    claim = claim_of(space)
    # State of an older operator: the same field manager, with the label and other fields.
    applied = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim["metadata"]["name"],
            "labels": {**claim["metadata"]["labels"], "app.kubernetes.io/instance": "default"},
            "annotations": {"ropewalk.dev/applied": "older", "ropewalk.dev/formatted": "true"},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": claim["spec"]["resources"]},
    }
    path = path_of("v1", "persistentvolumeclaims", space.name, claim["metadata"]["name"])
    manager = "?fieldManager=ropewalk-operator%2Fcluster&force=true"
    try:
        api.request("PATCH", path + manager, applied, "application/apply-patch+yaml")
    except Refused as error:
        pytest.fail(str(error))
    gone = lambda: "app.kubernetes.io/instance" not in claim_of(space)["metadata"]["labels"]
    wait("the label is gone", 60, lambda: (gone(), claim_of(space)["metadata"]))


# --- a node that is lost ----------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_lost_node_is_named_with_the_taint_that_frees_the_volume(filled):
    from harness import KUBE, operator_pods, run

    space, _ = filled
    node = space.broker_pod()["spec"]["nodeName"]
    if any(p["spec"].get("nodeName") == node for p in operator_pods()):
        pytest.skip("the operator runs on the same node")
    run(str(KUBE / "link"), node, "down")
    try:
        kubectl("delete", "pod", "-n", space.name, "default-broker-0-0", "--wait=false")
        found = space.condition("BrokerCluster", "default", "Ready", status="False", reason="NodeUnreachable", seconds=150)
        assert node in found["message"] and "out-of-service" in found["message"], found
        pod = space.get("Pod", "default-broker-0-0")
        assert pod["metadata"].get("deletionTimestamp"), "the operator never forces it"
    finally:
        run(str(KUBE / "link"), node, "up")
    wait("all nodes are ready", 90, lambda: (kubectl("get", "nodes").count(" Ready") == 3, kubectl("get", "nodes")))
    space.ready(seconds=150)
