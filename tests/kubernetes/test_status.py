"""A status matches reality: removed groups, changed and lost topics, metrics and replicas of removed consumers."""

import base64

import pytest
import requests
from harness import api, condition_of, holds, path_of, read_until, send, wait
from test_scaling import QUICK, scaled


def bindings(space, uid, cluster="default"):
    """The groups that the brokers hold for a Queue, from the admin API."""
    token = base64.b64decode(space.get("Secret", f"{cluster}-admin")["data"]["token"]).decode()
    url = f"http://{cluster}-broker-0.{space.name}.svc:9644/v1/owners/{uid}"
    answer = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return [group["group"] for queue in answer.json()["queues"] for group in queue["groups"]]


def set_spec(space, change, name="orders"):
    space.patch("Queue", name, {"spec": change})


def delete_topic(bootstrap, topic):
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_topics([topic])
    admin.close()


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_taken_away_while_paused_is_unbound_later(space):
    """The status no longer names the group by the time that the Queue is managed again; the brokers still do."""
    space.queue(consumers=[{"name": "stays"}, {"name": "goes"}])
    space.ready()
    uid = space.get("Queue", "orders")["metadata"]["uid"]
    group = f"{space.name}.orders.goes"
    assert group in bindings(space, uid)
    set_spec(space, {"managementState": "Paused", "consumers": [{"name": "stays"}]})
    # The entry stays until the metrics are written again, at least half a minute later.
    wait("the status names one consumer", 90, lambda: ([c["name"] for c in space.status().get("consumers", [])] == ["stays"], space.status()))
    assert group in bindings(space, uid), "paused: nothing is changed"
    set_spec(space, {"managementState": "Managed"})
    wait("the group is unbound", 90, lambda: (group not in bindings(space, uid), None), every=5)
    assert f"{space.name}.orders.stays" in bindings(space, uid)


# --- topics that differ, or were lost -------------------------------------------------------------------------------


def test_drift_is_put_right_within_a_minute(space):
    """The topic is changed without the operator, and a Service is removed."""
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    space.queue(retention={"maxAgeSeconds": 7200})
    bootstrap = space.ready()
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "orders", configs={"retention.ms": "1000000"})])

    def retention():
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "orders")])
        return "7200000" in str(described), str(described)[:300]

    wait("the topic's retention is back", 75, retention, every=2)
    api.request("DELETE", path_of("v1", "services", space.name, "default-bootstrap"))
    wait("the Service is back", 30, lambda: space.get("Service", "default-bootstrap"))


@pytest.mark.long
def test_a_topic_that_vanished_is_named_until_it_is_accepted(space):
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(5))
    before = space.status()["topicId"]
    delete_topic(bootstrap, "orders")
    message = space.condition("Queue", "orders", "TopicLost", reason="TopicRecreated", seconds=120)["message"]
    after = space.status()["topicId"]
    assert before != after and before in message and after in message, message
    space.condition("Queue", "orders", "Ready", status="False", reason="TopicLost")
    wait("an Event warns", 20, lambda: (space.events("orders", "TopicLost"), None))
    holds("it stays so", 75, lambda: (condition_of(space.get("Queue", "orders"), "TopicLost")["status"] == "True", space.status()), every=5)
    space.patch("Queue", "orders", {"metadata": {"annotations": {"ropewalk.dev/accept-topic-loss": before}}})
    space.condition("Queue", "orders", "TopicLost", status="False", seconds=30)
    space.ready()
    assert "lostTopicId" not in space.status()


def test_no_second_queue_brings_an_empty_default_cluster(space):
    """k4: the cluster `default` is gone and a Queue was in it; a new Queue must not make an empty one."""
    space.queue()
    space.ready()
    space.remove("BrokerCluster", "default")
    wait("the cluster is gone", 60, lambda: (space.get("BrokerCluster", "default") is None, None))
    space.queue("second")
    message = space.condition("Queue", "second", "Ready", status="False", reason="ClusterNotFound", seconds=40)["message"]
    assert "orders" in message, message
    holds("none is made", 15, lambda: (space.get("BrokerCluster", "default") is None, None))
    space.create("BrokerCluster", "default", {})
    space.ready("second")
    space.ready("orders")


# --- one target, several queues -------------------------------------------------------------------------------------


def test_one_deployment_of_two_queues_wakes_for_either(space):
    """The workers read `orders`; messages in `bills` must scale them up and keep them."""
    bootstrap = scaled(space)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    space.queue("bills", partitions=6, consumers=[{"name": "worker", "targetRef": target, "scaling": QUICK}])
    space.ready("bills")
    wait("no consumer without messages", 30, lambda: (space.replicas("worker") == 0, space.status()))
    send(bootstrap, "bills", range(3))
    wait("a message in the second queue wakes it", 30, lambda: (space.replicas("worker") > 0, space.status("bills")))
    # No worker processes these, so it must not scale to zero although the first queue is idle.
    holds("it stays up", 40, lambda: (space.replicas("worker") > 0, space.status()), every=1)
    for name in ("orders", "bills"):
        space.condition("Queue", name, "ScalingActive")
    send(bootstrap, "orders", range(5))
    assert read_until(bootstrap, "done", lambda seen: len(seen) >= 5, 60)


# --- metrics and replicas of removed consumers ----------------------------------------------------------------------


def test_a_status_is_cleared_of_what_is_gone(space):
    bootstrap = scaled(space, scaling={"minReplicas": 1})
    send(bootstrap, "orders", range(5))
    wait("replicas are shown", 60, lambda: (space.status().get("consumerReplicas"), space.status()))
    wait("metrics are shown", 60, lambda: ("figuresTime" in space.status() and "length" in space.status(), space.status()))
    # Without a target nothing is scaled, and the status must not report scaling any longer.
    set_spec(space, {"consumers": [{"name": "worker"}]})

    def is_clear():
        status = space.status()
        there = [key for key in ("replicas", "desiredReplicas") for c in status.get("consumers", []) if key in c]
        conditions = [c["type"] for c in status["conditions"] if c["type"].startswith("Scaling")]
        return not there and not conditions and "consumerReplicas" not in status, status

    wait("no condition mentions scaling", 30, is_clear)
    assert condition_of(space.get("Queue", "orders"), "Ready")["status"] == "True"
    set_spec(space, {"consumers": []})
    wait("no consumer is left in the status", 90, lambda: (not space.status().get("consumers"), space.status()))


def test_figures_go_when_no_broker_confirms_them(space):
    space.queue()
    bootstrap = space.ready()
    send(bootstrap, "orders", range(5))
    wait("the length is shown", 60, lambda: (space.status().get("length") == 5, space.status()))
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Hibernated"}})
    wait("metrics that no broker confirms are removed", 150, lambda: ("length" not in space.status() and "figuresTime" not in space.status(), space.status()), every=1)
    space.condition("Queue", "orders", "Ready", status="False", reason="ClusterNotReady", seconds=60)
    space.patch("BrokerCluster", "default", {"spec": {"runState": "Running"}})
    space.ready()
    wait("and they appear again", 90, lambda: (space.status().get("length") == 5, space.status()))


# --- from zero, for a group that never committed --------------------------------------------------------------------


def test_what_was_sent_before_the_first_consumer_ever_ran_is_read(space):
    """The group is bound at the oldest message, so a client whose own default is `latest` skips nothing."""
    bootstrap = scaled(space, RESET="latest")
    wait("no consumer without messages", 30, lambda: (space.replicas("worker") == 0, space.status()))
    send(bootstrap, "orders", range(30))
    wait("the first message wakes a consumer", 30, lambda: (space.replicas("worker") > 0, space.status()))
    seen = read_until(bootstrap, "done", lambda seen: set(map(int, seen)) >= set(range(30)), 90)
    assert set(map(int, seen)) >= set(range(30)), sorted(map(int, seen))


def test_a_target_that_the_operator_may_not_scale_is_named_with_what_to_do(space):
    """A kind without a scale subresource, and one that does not exist."""
    for name, kind, version, reason in [
        ("daemons", "DaemonSet", "apps/v1", "TargetNotScalable"),
        ("rollouts", "Rollout", "argoproj.io/v1alpha1", "TargetKindMissing"),
    ]:
        target = {"apiVersion": version, "kind": kind, "name": "worker"}
        space.queue(name, consumers=[{"name": "worker", "targetRef": target}])
        space.ready(name)
        message = space.condition("Queue", name, "ScalingActive", status="False", reason=reason, seconds=60)["message"]
        assert kind in message and version in message, message
