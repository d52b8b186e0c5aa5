"""Producers of several libraries: first writes, order over restarts, recreated topics, lost answers."""

import asyncio
import threading
import time

import pytest
from confluent_kafka import KafkaError, Producer

from broker import free_ports
from proxy import CuttingProxy
from records import create, read_all, send


def test_the_first_write_makes_its_topic(broker, go):
    topics = [f"kafka-go-{n}" for n in range(20)]
    for line in go("kafka-go-create", broker.kafka, *topics).ended(60):
        assert not line["error"], line
    for line in go("sarama-create", broker.kafka, "sarama-1", "sarama-2").ended(60):
        assert not line["error"], line
    send(broker, "librdkafka-1", ["first"])
    assert all(read_all(broker, topic) == ["first"] for topic in [*topics[:3], "sarama-1", "librdkafka-1"])


def test_without_automatic_topics_a_write_fails_within_the_clients_time(make_broker, go):
    broker = make_broker(["auto.create.topics.enable=false"])
    for line in go("sarama-create", broker.kafka, "sarama-1").ended(60):
        assert line["error"]
    producer = Producer({"bootstrap.servers": broker.kafka, "message.timeout.ms": 10_000, "log_level": 0})
    errors = []
    producer.produce("librdkafka-1", "x", on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(30) == 0
    # The error depends on which timeout of the client ends first: the topic's or the message's.
    ends = (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._MSG_TIMED_OUT)
    assert errors[0].code() in ends, errors[0]


def test_one_record_a_request_keeps_its_order_over_restarts(broker, go):
    create(broker, "t")
    writer = go("kafka-go-order", broker.kafka, "t", 4000)
    for acked in (1000, 2500):
        writer.wait_for(lambda line, acked=acked: line.get("acked", 0) >= acked, 90)
        broker.kill()
        broker.start()
    assert writer.ended(120)[-1]["done"]
    values = [int(value) for value in read_all(broker, "t")]
    assert sorted(set(values)) == list(range(4000)), "a record is missing"
    # kafka-go is not idempotent: a retried record may occur twice in a row.
    assert values == sorted(values), "a later record is before an earlier one"


@pytest.mark.parametrize("pause_seconds", [0, 3])
def test_a_producer_goes_on_after_its_topic_was_deleted_and_made_again(make_broker, pause_seconds):
    # With automatic creation, the producer's metadata request would recreate the topic first.
    broker = make_broker(["auto.create.topics.enable=false"])
    admin = create(broker, "t")
    for _ in range(2):
        broker.kill()
        broker.start()
    stop, acked = threading.Event(), []
    producer = Producer({
        "bootstrap.servers": broker.kafka, "acks": "all", "linger.ms": 0, "log_level": 0, "message.timeout.ms": 60_000,
        "topic.metadata.refresh.interval.ms": 2000, "topic.metadata.propagation.max.ms": 60_000,
    })

    def write():
        while not stop.is_set():
            producer.produce("t", "x", on_delivery=lambda error, _: error or acked.append(time.monotonic()))
            producer.poll(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not acked and time.monotonic() < deadline:
            time.sleep(0.05)
        assert acked, "nothing was acknowledged before the deletion"
        admin.delete_topics(["t"])["t"].result(30)
        time.sleep(pause_seconds)
        made = time.monotonic()
        create(broker, "t")
        while not [at for at in acked if at > made + 1] and time.monotonic() < made + 60:
            time.sleep(0.1)
        assert [at for at in acked if at > made + 1], "sends never succeed again"
    finally:
        stop.set()
        thread.join()
    producer.flush(30)


@pytest.fixture
def cut(make_broker):
    """A broker behind a proxy that loses the answer of every 60th request."""
    port, = free_ports(1)
    proxy = CuttingProxy(60, port)
    broker = make_broker([f"advertised.listeners=PLAINTEXT://{proxy.address}"])
    proxy.upstream = broker.kafka
    yield broker, proxy
    proxy.close()


def check_each_once(broker, proxy, partitions, count):
    assert proxy.cuts >= 2, "no answer was lost: this shows nothing"
    for partition in range(partitions):
        values = [int(value) for value in read_all(broker, "t", partition)]
        assert values == list(range(partition, count, partitions)), f"partition {partition}"


def test_sarama_writes_each_value_once_though_answers_are_lost(cut, go):
    broker, proxy = cut
    create(broker, "t", 3)
    lines = go("sarama-idempotent", proxy.address, "t", 3, 6000).ended(120)
    assert lines[-1] == {"done": True, "acked": 6000}, lines[:5]
    proxy.every = 1 << 60
    check_each_once(broker, proxy, 3, 6000)


def test_librdkafka_writes_each_value_once_though_answers_are_lost(cut):
    broker, proxy = cut
    create(broker, "t", 3)
    failed = []
    producer = Producer({
        "bootstrap.servers": proxy.address, "enable.idempotence": True, "linger.ms": 1, "log_level": 0,
        "max.in.flight.requests.per.connection": 5, "reconnect.backoff.max.ms": 100, "message.timeout.ms": 90_000,
    })
    for value in range(6000):
        producer.produce("t", str(value), partition=value % 3, on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0.001)
    assert producer.flush(90) == 0 and not failed, failed[:1]
    proxy.every = 1 << 60
    check_each_once(broker, proxy, 3, 6000)


def test_aiokafka_writes_each_value_once_though_answers_are_lost(cut):
    from aiokafka import AIOKafkaProducer

    broker, proxy = cut
    create(broker, "t", 3)

    async def write():
        producer = AIOKafkaProducer(bootstrap_servers=proxy.address, enable_idempotence=True, linger_ms=2, retry_backoff_ms=50)
        await producer.start()
        sent = []
        for value in range(6000):
            sent.append(await producer.send("t", str(value).encode(), partition=value % 3))
            if value % 3 == 0:
                await asyncio.sleep(0.001)
        await asyncio.wait_for(asyncio.gather(*sent), 120)
        await producer.stop()

    asyncio.run(write())
    proxy.every = 1 << 60
    check_each_once(broker, proxy, 3, 6000)
