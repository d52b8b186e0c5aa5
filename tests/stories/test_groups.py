"""Members of groups that are killed, frozen or late, from several libraries."""

import asyncio
import pathlib
import random
import signal
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from records import create, send
from wire import Connection, join_group_v1

MEMBER = pathlib.Path(__file__).parent / "member.py"


def test_a_static_member_that_is_killed_comes_back_without_a_rebalance(broker, program):
    create(broker, "t", 4)

    def member(instance):
        return program(sys.executable, MEMBER, broker.kafka, "t", "g", instance, 20_000)

    one, other = member("one"), member("other")

    def assignment(of):
        return [line["assigned"] for line in of.printed() if "assigned" in line]

    deadline = time.monotonic() + 40
    while not (assignment(one) and assignment(other) and len(assignment(one)[-1]) == 2 == len(assignment(other)[-1])):
        assert time.monotonic() < deadline, "the group does not settle"
        time.sleep(0.1)
    owned, before = sorted(assignment(one)[-1]), len(other.printed())
    for _ in range(8):
        one.kill()
        time.sleep(random.uniform(0.0, 0.5))
        one = member("one")
        line = one.wait_for(lambda line: "assigned" in line, 15)
        assert sorted(line["assigned"]) == owned, "it gets what it had"
    # The broker restarts while one is away.
    one.kill()
    broker.kill()
    broker.start()
    one = member("one")
    assert sorted(one.wait_for(lambda line: "assigned" in line, 30)["assigned"]) == owned
    send(broker, "t", ["after"], partition=owned[0])
    one.wait_for(lambda line: line.get("value") == "after", 20)
    assert not [line for line in other.printed()[before:] if "revoked" in line or line.get("fatal")], other.printed()


def test_joins_that_hung_up_leave_no_members(broker):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    # A member that the group waits for: it joined, and the group cannot complete until it joins again.
    held = Connection(broker.kafka)
    held.call(*join_group_v1("g", "", b"held", session_ms=20_000, rebalance_ms=20_000))
    for _ in range(300):
        gone = Connection(broker.kafka)
        gone.send(*join_group_v1("g", "", b"gone", session_ms=6000, rebalance_ms=20_000))
        gone.close()
    deadline = time.monotonic() + 40
    while True:
        group = admin.describe_consumer_groups(["g"])["g"].result(10)
        if len(group.members) <= 1:
            break
        assert time.monotonic() < deadline, f"{len(group.members)} members of connections that are closed"
        time.sleep(0.5)
    held.close()


def test_kafkajs_members_go_on_over_restarts(broker, node):
    create(broker, "t", 6)
    members = [node(broker.kafka, "t", "g") for _ in range(3)]
    for member in members:
        member.wait_for(lambda line: "joined" in line, 40)
    for restart in range(6):
        broker.kill()
        broker.start()
        for partition in range(6):
            send(broker, "t", [f"{restart}-{partition}"], partition=partition)
        time.sleep(1)
    wanted = {f"{restart}-{partition}" for restart in range(6) for partition in range(6)}
    deadline = time.monotonic() + 60
    while True:
        seen = {line["value"] for member in members for line in member.printed() if "value" in line}
        if seen == wanted:
            break
        assert time.monotonic() < deadline, f"never received: {sorted(wanted - seen)}"
        time.sleep(0.2)
    for member in members:
        assert member.process.poll() is None, "a member ended"
        assert not [line for line in member.printed() if line.get("crash") and not line["restarts"]]


def test_the_partitions_of_a_member_that_died_move_though_another_is_busy(broker, go):
    create(broker, "t", 2)
    members = [go("sarama-member", broker.kafka, "t", "g", 6000, 8000, 60_000) for _ in range(2)]

    def claims(member):
        found = [line["claims"] for line in member.printed() if "joined" in line]
        return (found[-1] or {}).get("t", []) if found else []

    deadline = time.monotonic() + 40
    while sorted(map(claims, members)) != [[0], [1]]:
        assert time.monotonic() < deadline, "the group does not settle"
        time.sleep(0.1)
    busy, frozen = members
    send(broker, "t", ["slow"], partition=claims(busy)[0])
    busy.wait_for(lambda line: line.get("value") == "slow", 15)
    lost = claims(frozen)[0]
    # A pause longer than the session timeout, then the end.
    frozen.process.send_signal(signal.SIGSTOP)
    time.sleep(9.5)
    frozen.process.send_signal(signal.SIGCONT)
    frozen.kill()
    third = go("sarama-member", broker.kafka, "t", "g", 6000, 8000, 100)
    send(broker, "t", ["later"], partition=lost)
    # Session and rebalance timeout apply although the handler of the busy member takes a minute.
    third.wait_for(lambda line: line.get("value") == "later", 30)


def test_a_commit_of_a_member_that_was_expelled_is_not_stored(broker):
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

    create(broker, "t", 1)
    send(broker, "t", ["a", "b", "c"])

    async def run():
        blocked = AIOKafkaConsumer(
            "t", bootstrap_servers=broker.kafka, group_id="g", session_timeout_ms=6000, heartbeat_interval_ms=1000,
            auto_offset_reset="earliest", enable_auto_commit=False)
        await blocked.start()
        first = await blocked.getone()
        partition = first.offset, next(iter(blocked.assignment()))
        # The event loop is blocked for longer than the session timeout; meanwhile another member takes over.
        other = Consumer({
            "bootstrap.servers": broker.kafka, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0,
            "enable.auto.commit": False})
        other.subscribe(["t"])
        seen, deadline = [], time.monotonic() + 40
        while len(seen) < 3 and time.monotonic() < deadline:
            message = other.poll(0.2)
            if message is not None and not message.error():
                seen.append(message.value())
        assert seen == [b"a", b"b", b"c"]
        other.commit(asynchronous=False)
        try:
            await blocked.commit({partition[1]: 1})
            refused = False
        except (CommitFailedError, IllegalStateError, KafkaError):
            refused = True
        assert refused, "the commit of an expelled member was taken"
        other.close()
        await blocked.stop()

    asyncio.run(run())
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    offsets = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("g", [TopicPartition("t", 0)])])["g"].result(10)
    assert offsets.topic_partitions[0].offset == 3
