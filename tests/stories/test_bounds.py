"""Requests far over every bound: each is refused or accepted, and all shards and the catalog serve afterwards."""

import itertools
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from records import create, read_all, send
from wire import Connection, create_topics_v2, error_of_create_v2, error_of_join, join_group_v1, offset_commit_v2

# More than the number of shards: each shard has at least one.
PARTITIONS = 24
NUMBERS = itertools.count()


def check_everything_serves(broker):
    """A record in a partition of each shard, a new topic, and the list of groups."""
    for partition in range(PARTITIONS):
        send(broker, "everywhere", ["after"], partition=partition, **{"message.timeout.ms": 10_000})
        assert read_all(broker, "everywhere", partition, 10)[-1] == "after"
    admin, name = AdminClient({"bootstrap.servers": broker.kafka}), f"later-{next(NUMBERS)}"
    admin.create_topics([NewTopic(name, 1)])[name].result(10)
    groups = admin.list_consumer_groups().result(10)
    assert not groups.errors, groups.errors
    assert broker.answers(5), broker.obstacles


@pytest.fixture
def served(broker):
    create(broker, "everywhere", PARTITIONS)
    return broker


@pytest.mark.parametrize("size", [1 << 20, 20 << 20, 60 << 20, 64 << 20, 80 << 20, 95 << 20])
def test_a_batch_of_any_size_costs_nobody_else(served, size):
    admin = AdminClient({"bootstrap.servers": served.kafka})
    try:
        create(served, "large", 1, **{"max.message.bytes": str(size + 4096)})
    except KafkaException as error:
        # A topic with a limit above the broker's is refused; the error names the highest value.
        assert error.args[0].code() == KafkaError.INVALID_CONFIG and "max.message.bytes" in error.args[0].str()
        create(served, "large", 1)
    errors = []
    producer = Producer({
        "bootstrap.servers": served.kafka, "message.max.bytes": 200_000_000, "message.timeout.ms": 30_000,
        "log_level": 0,
    })
    producer.produce("large", b"x" * size, partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(60) == 0
    if errors[0] is None:
        assert len(read_all(served, "large")[0]) == size
    else:
        assert errors[0].code() == KafkaError.MSG_SIZE_TOO_LARGE, errors[0].str()
    check_everything_serves(served)
    admin.delete_topics(["large"])["large"].result(30)


def test_three_members_with_huge_metadata_cost_nobody_else(served):
    ends = []

    def join():
        connection = Connection(served.kafka)
        try:
            answer = connection.call(*join_group_v1("huge", "", b"m" * (25 << 20)))
            ends.append(error_of_join(answer))
        except EOFError:
            ends.append("closed")
        connection.close()

    threads = [threading.Thread(target=join) for _ in range(3)]
    for thread in threads:
        thread.start()
    # Other requests are answered while these wait.
    check_everything_serves(served)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a join has no answer"
    assert len(ends) == 3 and 0 not in ends, ends
    check_everything_serves(served)


def test_a_huge_commit_costs_nobody_else(served):
    connection = Connection(served.kafka)
    metadata = "m" * 4000
    for count in (22_000, 10):
        try:
            connection.call(*offset_commit_v2("commits", "everywhere", [0] * count, metadata))
        except EOFError:
            connection = Connection(served.kafka)
        check_everything_serves(served)
    connection.close()


def test_topics_with_huge_settings_cost_nobody_else(served):
    connection = Connection(served.kafka)
    try:
        answer = connection.call(*create_topics_v2("configured", [("cleanup.policy", "x" * 32_000)] * 640))
        assert error_of_create_v2(answer, "configured") != 0, "it was taken"
    except EOFError:
        pass
    connection.close()
    check_everything_serves(served)
