"""Invalid input is reported with a reason and a remedy; nothing crashes, and other queues continue."""

import pytest
from harness import Refused, Space, api, operator_pods, path_of, send, wait


@pytest.fixture(scope="module")
def healthy(operator):
    """A queue that must not be affected by other queues."""
    space = Space().make()
    space.queue()
    bootstrap = space.ready()
    yield space, bootstrap
    space.delete()


@pytest.fixture(autouse=True)
def others_go_on(healthy):
    restarts = sum(c["restartCount"] for p in operator_pods() for c in p["status"].get("containerStatuses", []))
    yield
    space, bootstrap = healthy
    send(bootstrap, "orders", ["still there"])
    space.ready(seconds=10)
    after = sum(c["restartCount"] for p in operator_pods() for c in p["status"].get("containerStatuses", []))
    assert after == restarts, "the operator crashed"


def says(space, kind, name, *words, condition="Ready", seconds=90):
    """Waits for a False condition whose message names the thing; the condition."""

    def look():
        found = next((c for c in space.status(name, kind).get("conditions", []) if c["type"] == condition), None)
        text = f"{found['reason']}: {found['message']}" if found else ""
        return found if found and found["status"] == "False" and all(w.lower() in text.lower() for w in words) else (False, found)

    return wait(f"{kind} {name} says {words}", seconds, look)


def test_a_cluster_that_is_not_there(space):
    space.queue(clusterRef={"name": "elsewhere"})
    says(space, "Queue", "orders", "elsewhere")
    assert space.get("BrokerCluster", "elsewhere") is None, "only `default` is made"
    # When it is created later, the queue continues without intervention.
    space.create("BrokerCluster", "elsewhere", {})
    space.ready()


def test_an_image_that_is_not_there(space):
    space.create("BrokerCluster", "default", {"image": {"repository": "localhost/no-such-image", "tag": "1", "pullPolicy": "Never"}})
    space.queue()
    says(space, "BrokerCluster", "default", "image")
    says(space, "Queue", "orders")
    # After the correction, it continues without intervention.
    space.patch("BrokerCluster", "default", {"spec": {"image": None}})
    space.ready(seconds=120)


def test_a_storage_class_that_is_not_there(space):
    space.create("BrokerCluster", "default", {"storage": {"storageClassName": "no-such-class"}})
    space.queue()
    says(space, "BrokerCluster", "default", "no-such-class")


def test_pods_that_fit_no_node(space):
    space.create("BrokerCluster", "default", {"resources": {"requests": {"cpu": "1000"}}})
    says(space, "BrokerCluster", "default", "cpu")


def test_a_quota_that_is_used_up(space):
    space.create("ResourceQuota", "none", {"hard": {"pods": "0"}})
    space.create("BrokerCluster", "default", {})
    found = says(space, "BrokerCluster", "default", "quota")
    assert found["message"]
    space.patch("ResourceQuota", "none", {"spec": {"hard": {"pods": "10"}}})
    space.condition("BrokerCluster", "default", "Ready", seconds=120)


def test_a_topic_that_belongs_to_another_queue(space):
    space.queue(topicName="shared")
    space.ready()
    space.queue("second", topicName="shared")
    found = says(space, "Queue", "second", "another topic name", condition="Provisioned")
    assert found["reason"] == "NameCollision"
    # The owner releases it, and the second one adopts it.
    space.remove("Queue", "orders")
    space.ready("second", seconds=120)


def test_a_topic_setting_that_no_broker_takes(space):
    space.queue(config={"segment.bytes": "many"})
    found = says(space, "Queue", "orders", "segment.bytes")
    assert found["reason"] == "InvalidConfig"
    space.patch("Queue", "orders", {"spec": {"config": {"segment.bytes": "1048576"}}})
    space.ready()


def test_a_broker_setting_that_is_none(space):
    space.queue()
    space.ready()
    space.patch("BrokerCluster", "default", {"spec": {"config": {"log.retention.hors": "1"}}})
    found = says(space, "BrokerCluster", "default", "log.retention.hors", condition="ConfigurationApplied")
    assert found["message"]
    # The running broker was not stopped.
    space.ready(seconds=10)


def test_more_partitions_than_asked_for_are_drift(space):
    from kafka.admin import KafkaAdminClient, NewPartitions

    space.queue(partitions=2)
    bootstrap = space.ready()
    KafkaAdminClient(bootstrap_servers=bootstrap).create_partitions({"orders": NewPartitions(5)})
    found = space.condition("Queue", "orders", "Drifted", seconds=90)
    assert "5" in found["message"]
    assert space.status()["partitions"] == 5


def test_a_volume_class_that_cannot_grow(space):
    space.create("BrokerCluster", "default", {"storage": {"size": "1Gi", "storageClassName": "fixed"}})
    space.queue()
    space.ready()
    space.patch("BrokerCluster", "default", {"spec": {"storage": {"size": "2Gi"}}})
    found = says(space, "BrokerCluster", "default", condition="StorageResized")
    assert found["message"]
    space.ready(seconds=10)


@pytest.mark.alone
def test_an_object_that_the_operator_cannot_read_stops_nobody(space):
    """Stored by a definition that allowed more, as after a downgrade."""
    definition = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", None, "queues.ropewalk.dev")
    whole = api.request("GET", definition)
    loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": loose, "status": loose}}
    swap = lambda s: api.request("PATCH", definition, [{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": s}], "application/json-patch+json")
    swap(schema)
    try:
        wait("the loose definition is served", 30, lambda: unreadable(space))
    finally:
        swap(whole["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    space.queue("readable")
    space.ready("readable")
    space.remove("Queue", "unreadable")


def unreadable(space):
    try:
        return space.create("Queue", "unreadable", {"partitions": "twelve"})
    except Refused:
        return None


def test_a_paused_queue_is_left_alone(space):
    space.queue(managementState="Paused")
    space.queue("other")
    space.ready("other")
    import time

    time.sleep(5)
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(bootstrap_servers=space.status("other")["bootstrapServers"])
    assert "orders" not in consumer.topics()
    consumer.close()
    space.condition("Queue", "orders", "Ready", status="False", reason="Paused")
    space.patch("Queue", "orders", {"spec": {"managementState": "Managed"}})
    space.ready()
