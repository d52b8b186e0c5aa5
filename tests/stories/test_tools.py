"""Requests of provisioning, lag and administration tools, and what they rely on."""

import subprocess

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewTopic, ResourceType,
)

from records import create, read_all, send


def describe(admin, kind, name):
    resource = ConfigResource(kind, name)
    return admin.describe_configs([resource])[resource].result(30)


def test_names_that_kafka_keeps_for_itself_are_no_queues(broker):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    for name in ("__consumer_offsets", "__transaction_state", "__share_group_state"):
        # A lag tool describes the topic, and its metadata request would create it.
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
    # Tools wait for ten seconds.
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


def test_old_clients_that_ask_for_no_versions(broker, tmp_path):
    create(broker, "t")
    (tmp_path / "lines").write_text("a\nb\nc\n")
    for version in ("0.10.0", "0.11.0"):
        old = ["-X", "api.version.request=false", "-X", f"broker.version.fallback={version}"]
        made = subprocess.run(["kcat", "-P", "-b", broker.kafka, "-t", "t", "-p", "0", *old, "-l", tmp_path / "lines"],
                              capture_output=True, text=True, timeout=30)
        assert made.returncode == 0, made.stderr
        read = subprocess.run(["kcat", "-C", "-b", broker.kafka, "-t", "t", "-p", "0", "-e", "-q", *old],
                              capture_output=True, text=True, timeout=30)
        assert read.stdout.split() == ["a", "b", "c"] * (1 if version == "0.10.0" else 2), read.stderr


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd", "uncompressed"])
def test_what_the_broker_compresses_anew_can_be_read_by_everybody(broker, java, codec):
    from kafka import KafkaConsumer

    create(broker, "t", 1, **{"compression.type": codec})
    values = [f"{n}:" + "x" * 2000 for n in range(200)]
    for sent in ("gzip", "snappy", "lz4", "zstd", "none"):
        send(broker, "t", values[:40] if sent != "none" else values[40:], **{"compression.type": sent, "linger.ms": 20})
    wanted = values[:40] * 4 + values[40:]
    assert read_all(broker, "t") == wanted
    consumer = KafkaConsumer("t", bootstrap_servers=broker.kafka, auto_offset_reset="earliest", consumer_timeout_ms=5000)
    assert [message.value.decode() for message in consumer] == wanted
    consumer.close()
    lines = java("Consume", broker.kafka, "t", "g", "earliest", len(wanted), 90).ended(120)
    assert [line["value"] for line in lines] == wanted
