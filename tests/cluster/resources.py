"""Faults of what a broker runs on, under load: its disk and its clock. See scenarios.py."""

import time

from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from history import now
from load import PARTITIONS
from report import Event, progress
from waiting import wait_for

# How long a fault lasts after all clients have gone on, in seconds.
LASTS_S = (2.0, 4.0)
# Until a broker says that its disk is full. It notices when it next needs space.
NOTICED_S_MAX = 60
# An admin request on a cluster whose disks are full.
ADMIN_S_MAX = 60
# Records to delete while disks are full.
BALLAST_RECORDS, BALLAST_BYTES = 2000, 2000


def lasting(run, fault, begin, end):
    """The fault begins, all clients go on, and after some seconds it ends, and they go on again."""
    run.rest()
    events = [Event(now(), fault)]
    begin()
    waited = run.go_on(events[-1].at, fault)
    progress(f"{fault}: all clients went on within {waited:.1f} s")
    time.sleep(run.rng.uniform(*LASTS_S))
    events.append(Event(now(), f"end of: {fault}"))
    end()
    run.go_on(events[-1].at, f"end of: {fault}")
    run.whole()
    return events


def slow(run, roles):
    """A disk becomes slow, and fast again."""
    events = []
    for role in roles:
        node = run.choose(role)
        events += lasting(run, f"slow disk of a {role}", node.slow_disk, node.disk.fast)
    return events


def clock(run, jumps):
    """The wall clock of a broker jumps by so many seconds, and back."""
    events = []
    for role, seconds in jumps:
        node = run.choose(role)
        events += lasting(run, f"clock of a {role} jumps by {seconds} s", lambda: node.set_clock_forward(seconds),
                          lambda: node.set_clock_forward(0))
    return events


def full(run, roles):
    """The disk of one broker becomes full: clients go on, because two others have space. Then it has space again."""
    events = []
    for role in roles:
        node = run.choose(role)

        def fill():
            node.disk.fill()
            wait_until_noticed([node])

        events += lasting(run, f"full disk of a {role}", fill, node.disk.free)
    return events


def full_majority(run, _):
    """The disks of two of three brokers become full: the third leads, records are written as long as the logs of the two
    have space in their files, and records can be deleted. Then they have space again."""
    run.rest()
    ballast = run.load.make_records(BALLAST_RECORDS, BALLAST_BYTES)
    nodes = run.rng.sample(run.cluster.nodes, 2)
    names = " and ".join(str(node.number) for node in nodes)
    events = [Event(now(), "full disks of two of three")]
    for node in nodes:
        node.disk.fill()
    wait_until_noticed(nodes)
    stopped_at = now()
    delete(run, ballast)
    time.sleep(run.rng.uniform(*LASTS_S))
    waiting = run.load.waiting(stopped_at) or "none"
    progress(f"the disks of brokers {names} are full: records were deleted, and clients that wait: {waiting[:120]}")
    events.append(Event(now(), "end of: full disks of two of three"))
    for node in nodes:
        node.disk.free()
    run.go_on(events[-1].at, "two full disks have space again")
    run.whole()
    return events


def wait_until_noticed(nodes):
    def missing():
        unaware = [f"broker {node.number}" for node in nodes if node.metric("ropewalk_disk_full") != 1]
        return unaware and f"{' and '.join(unaware)} did not notice"

    wait_for("a full disk is noticed", NOTICED_S_MAX, missing, every=0.25)


def delete(run, topic):
    """Deletes all records of the topic, and then the topic."""
    began = time.monotonic()
    partitions = [TopicPartition(topic, partition, OFFSET_END) for partition in range(PARTITIONS)]
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap})

    def elsewhere():
        # Brokers with full disks hand over what they lead, and librdkafka does not ask for the leader again.
        for answer in admin.delete_records(partitions, operation_timeout=ADMIN_S_MAX).values():
            try:
                answer.result(ADMIN_S_MAX)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                    raise
                return "a leader was just moved"

    wait_for("the records are deleted", ADMIN_S_MAX, elsewhere, every=0.25)
    records_s = time.monotonic() - began
    admin.delete_topics([topic], operation_timeout=ADMIN_S_MAX)[topic].result(ADMIN_S_MAX)
    progress(f"records deleted within {records_s:.1f} s, their topic within {time.monotonic() - began - records_s:.1f} s")
