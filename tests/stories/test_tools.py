"""What provisioning, lag and administration tools ask, and rely on."""

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewTopic, ResourceType,
)

from records import create


def describe(admin, kind, name):
    resource = ConfigResource(kind, name)
    return admin.describe_configs([resource])[resource].result(30)


def test_names_that_kafka_keeps_for_itself_are_no_queues(broker):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    for name in ("__consumer_offsets", "__transaction_state", "__share_group_state"):
        # A lag tool asks for the topic, and its metadata request would make it.
        admin.list_topics(name, timeout=10)
        with pytest.raises(KafkaException):
            admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    assert not [queue for queue in broker.get("/v1/queues")["queues"] if queue["name"].startswith("__")]


def test_defaults_of_the_broker_can_be_read_before_a_topic_is_made(broker):
    configs = describe(AdminClient({"bootstrap.servers": broker.kafka}), ResourceType.BROKER, "1")
    for key in ("num.partitions", "default.replication.factor"):
        assert int(configs[key].value) >= 1, key
        assert configs[key].source != ConfigSource.UNKNOWN_CONFIG.value


def test_a_time_query_over_a_thousand_empty_partitions_is_answered(broker):
    create(broker, "t", 1000)
    consumer = Consumer({"bootstrap.servers": broker.kafka, "group.id": "g"})
    # Ten seconds is what tools wait.
    found = consumer.offsets_for_times([TopicPartition("t", p, 1_700_000_000_000) for p in range(1000)], timeout=10)
    assert len(found) == 1000 and all(p.error is None and p.offset == -1 for p in found)
    consumer.close()


def test_every_described_setting_can_be_set_to_what_it_is(broker):
    admin = create(broker, "t")
    before = describe(admin, ResourceType.TOPIC, "t")
    entries = [
        ConfigEntry(name, entry.value, incremental_operation=AlterConfigOpType.SET)
        for name, entry in before.items() if not entry.is_read_only and entry.value is not None
    ]
    assert len(entries) > 10
    resource = ConfigResource(ResourceType.TOPIC, "t", incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(30)
    after = describe(admin, ResourceType.TOPIC, "t")
    assert {name: entry.value for name, entry in after.items()} == {name: entry.value for name, entry in before.items()}


def test_a_default_that_was_set_stays_though_the_broker_changes_its_own(broker):
    admin = create(broker, "t")
    retention = describe(admin, ResourceType.TOPIC, "t")["retention.ms"]
    assert retention.is_default

    def change(kind, name, key, value):
        entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(kind, name, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(30)

    change(ResourceType.TOPIC, "t", "retention.ms", retention.value)
    kept = describe(admin, ResourceType.TOPIC, "t")["retention.ms"]
    assert kept.value == retention.value and kept.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value


def test_replication_factors_are_what_one_broker_can_give(broker):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    admin.create_topics([NewTopic("default", 1)])["default"].result(30)
    described = admin.list_topics("default", timeout=10).topics["default"]
    assert len(described.partitions[0].replicas) == 1
    with pytest.raises(KafkaException, match="(?i)replication"):
        admin.create_topics([NewTopic("three", 1, 3)])["three"].result(30)
