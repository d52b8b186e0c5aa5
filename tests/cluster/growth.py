"""Brokers that crash while a cluster grows, under load. See scenarios.py."""

import time

from history import now
from report import Event, progress
from waiting import wait_for

# Until a replica is in the state in which a broker is to be killed.
MOMENT_S_MAX = 60
CATALOG = 0
# Enough records that sending the files of a shard takes longer than it takes to kill a broker.
RECORDS, RECORD_BYTES = 20_000, 2000


def is_receiving(replica):
    """A learner gets what it lacks."""
    return replica["role"] == "Learner" and not replica["votes"]


def is_promoted(replica):
    """The catalog says that it votes, and its leader has not made it a voter yet."""
    return replica["role"] == "Voter" and replica["votes"] is False


def moments(report, of, number=None):
    """The shards that have a replica in that state, on the broker with the number if one is given: their leaders."""
    return [shard["leader"] for shard in report["shards"] if shard["shard"] != CATALOG and shard["leader"] is not None
            and any(of(replica) and number in (None, replica["broker"]) for replica in shard["replicas"])]


def wait_for_moment(run, what, of, number=None):
    """The number of a broker that leads a shard with a replica in that state."""
    found = []

    def missing():
        run.cluster.check_running()
        asked = next(node for node in run.cluster.nodes if node.is_running())
        found[:] = moments(asked.get("/v1/cluster"), of, number)
        return not found and "no shard is"

    wait_for(what, MOMENT_S_MAX, missing, every=0.01)
    return found[0]


def crash(run, nodes):
    """Brokers join. Each is killed while it receives files, and then a leader while it makes a learner a voter."""
    events = []
    run.load.make_records(RECORDS, RECORD_BYTES)
    run.cluster.add(*nodes)
    for node in nodes:
        wait_for_moment(run, f"broker {node.number} receives a replica", is_receiving, node.number)
        events += crash_of(run, node, "a broker that receives a replica")
    leader = run.cluster.node(wait_for_moment(run, "a learner becomes a voter", is_promoted))
    events += crash_of(run, leader, "the leader of a learner that becomes a voter")
    run.whole()
    progress(f"all in sync after {run.recoveries[-1]:.1f} s")
    return events


def crash_of(run, node, who):
    """kill -9, and the start that follows at once: it may be the only one that has the shard."""
    events = [Event(now(), f"kill -9 of {who}, and its start")]
    node.kill()
    node.start(wait=False)
    waited = run.go_on(events[-1].at, f"broker {node.number}, {who}, was killed")
    progress(f"broker {node.number}, {who}, was killed; all clients went on within {waited:.1f} s")
    time.sleep(run.rng.uniform(0.0, 1.0))
    return events
