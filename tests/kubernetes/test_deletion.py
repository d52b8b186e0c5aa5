"""Deletion in every order, with and without a running operator; data is kept or deleted by policy (k4)."""

import itertools

import pytest
from harness import Space, operator_down, read_all, send, wait


def gone(space, kind, name, seconds=60):
    wait(f"{kind} {name} is gone", seconds, lambda: (space.get(kind, name) is None, space.get(kind, name)))


def with_messages(space, count=20, **spec):
    space.queue(**spec)
    bootstrap = space.ready()
    send(bootstrap, "orders", range(count))
    return bootstrap


def test_a_kept_queue_comes_back_with_its_messages(space):
    bootstrap = with_messages(space)
    space.remove("Queue", "orders")
    gone(space, "Queue", "orders", 20)
    assert len(read_all(bootstrap, "orders")) == 20
    space.queue()
    space.ready()
    assert len(read_all(bootstrap, "orders")) == 20


def test_a_deleted_queue_takes_its_messages_along(space):
    bootstrap = with_messages(space, deletionPolicy="Delete")
    space.queue("other")
    space.ready("other")
    space.remove("Queue", "orders")
    gone(space, "Queue", "orders")
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    wait("the topic is gone", 30, lambda: ("orders" not in consumer.topics(), consumer.topics()))
    consumer.close()
    space.queue()
    space.ready()
    assert not read_all(bootstrap, "orders")


def test_queue_and_cluster_made_again_bring_the_data_back(space):
    """Retain in an existing namespace: the volume remains for a cluster of the same name."""
    with_messages(space)
    claim = space.list("PersistentVolumeClaim")[0]["metadata"]["uid"]
    space.remove("Queue", "orders")
    space.remove("BrokerCluster", "default")
    gone(space, "Queue", "orders", 20)
    gone(space, "BrokerCluster", "default")
    wait("no pod is left", 60, lambda: (not space.list("Pod"), [p["metadata"]["name"] for p in space.list("Pod")]))
    assert [c["metadata"]["uid"] for c in space.list("PersistentVolumeClaim")] == [claim]
    space.create("BrokerCluster", "default", {})
    space.queue()
    bootstrap = space.ready()
    assert sorted(map(int, read_all(bootstrap, "orders"))) == list(range(20))


def test_a_deleted_cluster_takes_its_volumes_along(space):
    space.create("BrokerCluster", "default", {"deletionPolicy": "Delete"})
    with_messages(space)
    space.remove("BrokerCluster", "default")
    gone(space, "BrokerCluster", "default")
    wait("the volume is gone", 60, lambda: (not space.list("PersistentVolumeClaim"), space.list("PersistentVolumeClaim")))
    found = space.condition("Queue", "orders", "Ready", status="False", seconds=60)
    assert found["message"], "it says that its cluster is missing"


ORDERS = list(itertools.product(["Queue first", "BrokerCluster first", "both at once"], ["Retain", "Delete"]))


def prepare(space, policy):
    space.create("BrokerCluster", "default", {"deletionPolicy": policy})
    with_messages(space, deletionPolicy=policy)


def delete(space, order, each_is_gone):
    kinds = [("Queue", "orders"), ("BrokerCluster", "default")]
    for kind, name in reversed(kinds) if order == "BrokerCluster first" else kinds:
        space.remove(kind, name)
        if each_is_gone and order != "both at once":
            gone(space, kind, name)


def ended(space, policy, seconds=60):
    for kind, name in (("Queue", "orders"), ("BrokerCluster", "default")):
        gone(space, kind, name, seconds)
    claims = space.list("PersistentVolumeClaim")
    if policy == "Retain":
        assert len(claims) == 1
    else:
        wait("the volume is gone", seconds, lambda: (not space.list("PersistentVolumeClaim"), claims))


@pytest.mark.parametrize("order, policy", ORDERS, ids=lambda value: value.replace(" ", "-"))
def test_k4_every_order_ends(space, order, policy):
    prepare(space, policy)
    delete(space, order, each_is_gone=True)
    ended(space, policy)


@pytest.mark.alone
def test_k4_every_order_ends_with_the_operator_down(operator):
    """With Retain deletion completes without an operator; with Delete when one is running again."""
    spaces = [(Space().make(), order, policy) for order, policy in ORDERS]
    for space, _, policy in spaces:
        space.create("BrokerCluster", "default", {"deletionPolicy": policy})
        space.queue(deletionPolicy=policy)
    for space, _, _ in spaces:
        send(space.ready(seconds=150), "orders", range(20))
    with operator_down():
        for space, order, policy in spaces:
            delete(space, order, each_is_gone=policy == "Retain")
        for space, _, policy in spaces:
            if policy == "Retain":
                ended(space, policy, 20)
    for space, _, policy in spaces:
        ended(space, policy)
        space.delete()


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_k4_a_namespace_goes_with_the_operator_up(space, policy):
    space.create("BrokerCluster", "default", {"deletionPolicy": policy})
    with_messages(space, deletionPolicy=policy)
    space.delete()
    wait("the namespace is gone", 90, lambda: (space.gone(), None))


@pytest.mark.alone
def test_k4_a_namespace_goes_with_the_operator_down(operator):
    """With Retain deletion completes without an operator; with Delete as soon as one is running again."""
    kept, deleted = Space().make(), Space().make()
    for space, policy in ((kept, "Retain"), (deleted, "Delete")):
        space.create("BrokerCluster", "default", {"deletionPolicy": policy})
        with_messages(space, deletionPolicy=policy)
    with operator_down():
        for space in (kept, deleted):
            space.delete()
        wait("the namespace with Retain is gone without an operator", 90, kept.gone)
    wait("the namespace with Delete is gone", 90, deleted.gone)
