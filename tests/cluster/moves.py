"""Leaderships move while all brokers run, under load. See scenarios.py."""

from confluent_kafka.admin import AdminClient
from history import now
from load import MEMBERS
from operations import Operations
from report import Event, progress

ASKED_S_MAX = 30


def coordinator(run):
    """The number of the broker that coordinates the load's group."""
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap})
    group = run.load.group(next(iter(MEMBERS)))
    return admin.describe_consumer_groups([group], request_timeout=ASKED_S_MAX)[group].result().coordinator.id


def leaders(run):
    return {shard["shard"]: shard["leader"] for shard in run.cluster.nodes[0].get("/v1/cluster")["shards"]}


def moves(run, times):
    """The coordinator of the load's group gives up all that it leads, so many times, and the group with it. The group must
    keep its assignment and its offsets."""
    events, moved, operations = [], 0, Operations(run.cluster)
    for _ in range(times):
        run.rest()
        before, number = leaders(run), coordinator(run)
        events.append(Event(now(), "a broker hands over all that it leads"))
        operations.hand_over(number)
        if (after := coordinator(run)) == number:
            raise AssertionError(f"broker {number} gave up all that it led, and still coordinates the group")
        moved += sum(leader != before[shard] for shard, leader in leaders(run).items())
        operations.admit(number)
        waited = run.go_on(events[-1].at, f"broker {number} handed over what it led")
        progress(f"the group moved from broker {number} to {after}, {moved} leaderships moved so far; all clients went on "
                 f"within {waited:.1f} s")
    run.whole()
    return events
