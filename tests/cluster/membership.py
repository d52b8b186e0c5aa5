"""Brokers are replaced, and their number changes, under load. See scenarios.py."""

from history import now
from operations import Operations
from report import ROLES, Event, progress
from waiting import wait_for

# Until a broker that was just added has replicas.
RECEIVED_S_MAX = 120
REFUSED_S_MAX = 60


def replace(run, times):
    """A broker is killed and its disk is lost. Its id is refused with an empty disk, and a broker with a new id takes its
    place."""
    events, operations = [], Operations(run.cluster)
    for _ in range(times):
        run.rest()
        node = run.choose(run.rng.choice(ROLES))
        events.append(Event(now(), "kill -9 of a broker whose disk is lost"))
        node.kill()
        run.go_on(events[-1].at, f"broker {node.number} was killed")
        node.disk.unmount()
        node.disk.mount()
        check_refused(node)
        run.cluster.remove(node)
        events.append(Event(now(), "a broker with a new id takes its place"))
        new = run.cluster.join(run.cluster.next_number())
        seconds = operations.drain(node.number)
        operations.forget(node.number)
        run.go_on(now(), f"broker {new.number} took the place of broker {node.number}")
        run.whole()
        progress(f"broker {new.number} took the place of broker {node.number} in {seconds:.1f} s")
    return events


def check_refused(node):
    """The cluster refuses the broker, which says why."""
    node.start(wait=False)
    wait_for(f"broker {node.number} with an empty disk is refused", REFUSED_S_MAX,
             lambda: "its data directory is empty" not in node.log() and f"its log is {node.log()[-500:]}", every=0.1)
    progress(f"broker {node.number} with an empty disk is refused, {'and runs' if node.is_running() else 'and ended'}")
    node.kill()


def resize(run, times):
    """Two brokers join, and when they have replicas, two of the five leave."""
    events, operations = [], Operations(run.cluster)
    for _ in range(times):
        for _ in range(2):
            run.rest()
            number = run.cluster.next_number()
            events.append(Event(now(), "a fourth or fifth broker joins"))
            run.cluster.join(number)
            wait_for(f"broker {number} gets replicas", RECEIVED_S_MAX, lambda: has_none(run, number), every=0.25)
            run.go_on(now(), f"broker {number} has replicas")
            progress(f"broker {number} joined and has replicas")
        for node in run.rng.sample(run.cluster.nodes, 2):
            run.rest()
            events.append(Event(now(), "drain of one of five or four"))
            seconds = operations.drain(node.number)
            run.go_on(events[-1].at, f"broker {node.number} is drained")
            events.append(Event(now(), "end of a drained broker"))
            node.stop()
            run.cluster.remove(node)
            operations.forget(node.number)
            run.go_on(events[-1].at, f"broker {node.number} is removed")
            progress(f"broker {node.number} was drained in {seconds:.1f} s, and removed")
        run.whole()
    return events


def has_none(run, number):
    """Whether it votes in no shard but the catalog."""
    shards = run.cluster.nodes[0].get("/v1/cluster")["shards"]
    votes = any(replica["broker"] == number and replica["votes"] for shard in shards if shard["shard"]
                for replica in shard["replicas"])
    return not votes and "it votes nowhere"
