"""Restrictions of platforms on pods and volumes: admission policies, LimitRanges and quotas that demand limits, volumes
that grow only while no pod mounts them, nodes that are drained."""

import time

import pytest
from harness import Load, api, kubectl, path_of, read_all, send, wait

# As OpenShift's `restricted-v2` assigns to a namespace.
FIRST_ID, LAST_ID = 1000650000, 1000659999


def says(space, reason, *words, seconds=90):
    """Waits for a cluster that is not ready for this reason, with these words; its message."""

    def look():
        found = next((c for c in space.status("default", "BrokerCluster").get("conditions", []) if c["type"] == "Ready"), None)
        right = found and found["status"] == "False" and found["reason"] == reason and all(w in found["message"] for w in words)
        return found and right and found["message"], found

    return wait(f"{reason} {words}", seconds, look)


def serves(space, seconds=120):
    space.condition("BrokerCluster", "default", "Ready", seconds=seconds)


def broker_uid(space, cluster="default"):
    pod = space.broker_pod(cluster)
    return pod and pod["metadata"]["uid"]


# --- admission ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ids_of_the_namespace(space):
    """Refuses every pod of the namespace that names a user or group outside the namespace's range."""
    name = f"ids-{space.name}"
    path = lambda plural, name=None: path_of("admissionregistration.k8s.io/v1", plural, None, name)
    allowed = lambda field: f"!has(object.spec.securityContext.{field}) || (object.spec.securityContext.{field} >= {FIRST_ID} && object.spec.securityContext.{field} <= {LAST_ID})"
    policy = {
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]},
            "validations": [
                {"expression": f"!has(object.spec.securityContext) || ({allowed(field)})", "message": f"{field} is not in the range of this namespace"}
                for field in ("runAsUser", "fsGroup")
            ],
        },
    }
    binding = {
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}}},
        },
    }
    api.request("POST", path("validatingadmissionpolicies"), policy)
    api.request("POST", path("validatingadmissionpolicybindings"), binding)
    # Valid in everything else that the namespace demands.
    container = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    probe = {"metadata": {"name": "probe"}, "spec": {
        "securityContext": {"runAsUser": 1, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "image": "a", "securityContext": container}],
    }}

    def is_enforced():
        try:
            api.request("POST", path_of("v1", "pods", space.name) + "?dryRun=All", probe)
        except Exception as refused:
            return "in the range of this namespace" in str(refused), refused
        return False, "it was let through"

    wait("the policy is enforced", 60, is_enforced)
    yield
    api.request("DELETE", path("validatingadmissionpolicybindings", name))
    api.request("DELETE", path("validatingadmissionpolicies", name))


def test_ids_that_a_policy_refuses_can_be_left_to_the_platform(space, ids_of_the_namespace):
    space.queue()
    says(space, "PodNotCreated", "is not in the range of this namespace", "spec.podTemplate.securityContext")
    space.patch("BrokerCluster", "default", {"spec": {"podTemplate": {"securityContext": {}}}})
    bootstrap = space.ready(seconds=120)
    context = space.broker_pod()["spec"]["securityContext"]
    assert "runAsUser" not in context and "fsGroup" not in context and context["runAsNonRoot"], context
    send(bootstrap, "orders", range(3))
    assert len(read_all(bootstrap, "orders")) == 3


def test_limits_that_a_namespace_sets_below_the_requests_say_which_setting_helps(space):
    limits = [{"type": "Container", "default": {"memory": "128Mi", "cpu": "250m"}}]
    api.request("POST", path_of("v1", "limitranges", space.name), {"metadata": {"name": "small"}, "spec": {"limits": limits}})
    space.queue()
    says(space, "PodNotCreated", "128Mi", "spec.resources")
    fitting = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
    space.patch("BrokerCluster", "default", {"spec": {"resources": fitting}})
    space.ready(seconds=120)


def test_a_quota_that_demands_limits_says_which_setting_helps(space):
    space.create("ResourceQuota", "limits", {"hard": {"limits.memory": "2Gi"}})
    # The API server enforces a quota only after its controller has counted.
    wait("the quota counts", 60, lambda: (space.get("ResourceQuota", "limits").get("status", {}).get("hard"), None))
    space.queue()
    says(space, "PodNotCreated", "limits.memory", "spec.resources")
    space.patch("BrokerCluster", "default", {"spec": {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}}})
    space.ready(seconds=120)


# --- volumes --------------------------------------------------------------------------------------------------------


def claim_of(space):
    return space.get("PersistentVolumeClaim", "data-default-broker-0")


def capacity(space):
    return claim_of(space)["status"].get("capacity", {}).get("storage")


@pytest.mark.long
def test_a_volume_that_grows_only_when_it_is_mounted_anew_gets_one_restart(space):
    """The provisioner of the class `remounted` makes the file system larger for the next pod only."""
    space.create("BrokerCluster", "default", {"storage": {"size": "1Gi", "storageClassName": "remounted"}})
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(20))
    old = broker_uid(space)
    space.patch("BrokerCluster", "default", {"spec": {"storage": {"size": "2Gi"}}})
    found = space.condition("BrokerCluster", "default", "StorageResized", status="False", reason="FileSystemResizePending", seconds=60)
    assert "restarted once" in found["message"], found["message"]
    assert broker_uid(space) == old, "the node has its time first"
    # The node has five minutes.
    wait("the broker is restarted", 420, lambda: (broker_uid(space) not in (None, old), space.status("default", "BrokerCluster")), every=2)
    wait("the volume has grown", 90, lambda: (capacity(space) == "2Gi", claim_of(space)["status"]))
    space.condition("BrokerCluster", "default", "StorageResized", seconds=60)
    serves(space)
    new = broker_uid(space)
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        assert broker_uid(space) == new, "once is enough"
        time.sleep(1)
    assert sorted(map(int, read_all(bootstrap, "orders"))) == list(range(20))


def test_a_size_that_cannot_be_provided_is_taken_back(space):
    """The provisioner of the class `bounded` has at most 5Gi for a volume."""
    space.create("BrokerCluster", "default", {"storage": {"size": "1Gi", "storageClassName": "bounded"}})
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(20))
    old = broker_uid(space)
    wait("the capacity is reported", 30, lambda: (space.status("default", "BrokerCluster").get("storageCapacity") == "1Gi", space.status("default", "BrokerCluster")))
    space.patch("BrokerCluster", "default", {"spec": {"storage": {"size": "1Ti"}}})
    found = space.condition("BrokerCluster", "default", "StorageResized", status="False", reason="ResizeFailed", seconds=60)
    assert "1Gi" in found["message"], found["message"]
    space.patch("BrokerCluster", "default", {"spec": {"storage": {"size": "1Gi"}}})
    # Kubernetes accepts only more than the volume has.
    wait("the claim asks for less", 30, lambda: (claim_of(space)["spec"]["resources"]["requests"]["storage"] == "1025Mi", claim_of(space)["spec"]))
    space.condition("BrokerCluster", "default", "StorageResized", seconds=60)
    assert broker_uid(space) == old, "nothing was restarted"
    assert len(read_all(bootstrap, "orders")) == 20


# --- nodes ----------------------------------------------------------------------------------------------------------


def drain(node, cluster):
    """Like `kubectl drain`, but evicts only the brokers of this cluster, because other tests run on the node too."""
    kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector=ropewalk.dev/cluster={cluster}", "--timeout=120s", seconds=150)


@pytest.mark.alone
def test_a_node_with_the_only_broker_can_be_drained(space):
    cluster = f"drained-{space.name}"
    space.create("BrokerCluster", cluster, {})
    space.queue(partitions=4, clusterRef={"name": cluster})
    bootstrap = space.ready()
    pod = space.broker_pod(cluster)
    node = pod["spec"]["nodeName"]
    with Load(bootstrap, "orders", per_second=200) as load:
        wait("the load runs", 30, lambda: (len(load.acked) > 100, load.errors))
        try:
            drain(node, cluster)

            def elsewhere():
                now = space.broker_pod(cluster)
                return now and now["metadata"]["uid"] != pod["metadata"]["uid"] and now["spec"].get("nodeName") not in (None, node), now

            wait("the broker runs on another node", 120, elsewhere)
            space.condition("BrokerCluster", cluster, "Ready", seconds=120)
            sent = load.sent
            wait("messages are acknowledged again", 60, lambda: (any(n > sent for n in list(load.acked)), load.errors[:3]))
        finally:
            kubectl("uncordon", node)
    assert not load.errors, load.errors[:3]
    missing = load.acked - {int(v) for v in read_all(bootstrap, "orders")}
    assert not missing, f"{len(missing)} of {len(load.acked)} acknowledged messages are lost"


@pytest.mark.alone
def test_a_broker_whose_volume_is_tied_to_a_drained_node_says_so(space):
    space.create("BrokerCluster", "default", {})
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(10))
    node = space.broker_pod()["spec"]["nodeName"]
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    affinity = {"required": {"nodeSelectorTerms": [here]}}
    volume = claim_of(space)["spec"]["volumeName"]
    # As a provisioner of local volumes sets it.
    api.request("PATCH", path_of("v1", "persistentvolumes", None, volume), {"spec": {"nodeAffinity": affinity}}, "application/merge-patch+json")
    kubectl("cordon", node)
    try:
        kubectl("delete", "pod", "-n", space.name, "default-broker-0-0", "--wait=false")
        says(space, "Unschedulable", "node affinity", seconds=120)
    finally:
        kubectl("uncordon", node)
    serves(space)
    assert len(read_all(bootstrap, "orders")) == 10
