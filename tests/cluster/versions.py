"""Brokers of two versions in one cluster: one broker after the other is replaced by the previous version, and then by the
present one again. Each leads something before the next one follows, so that each version leads beside the other."""

import os

from history import now
from report import Event, progress
from waiting import wait_for

# Of the load's topic.
PARTITIONS = 24
# A broker that has just started is given no leadership for a minute.
LEADS_S_MAX = 180


def previous():
    """The previous version's binary; nothing if there is none."""
    return os.environ.get("PREVIOUS_BROKER")


def leads_nothing(run, node):
    run.cluster.check_running()
    partitions = run.cluster.view(run.load.topic).topics[run.load.topic].values()
    return all(partition.leader != node.number for partition in partitions) and f"broker {node.number} leads nothing"


def replace(run, node, binary, version):
    event = Event(now(), f"restart with the {version} version")
    node.stop()
    node.binary = binary
    node.start(wait=False)
    run.go_on(event.at, f"broker {node.number} restarts with the {version} version")
    run.whole()
    waited = wait_for(f"broker {node.number}, of the {version} version, leads", LEADS_S_MAX,
                      lambda: leads_nothing(run, node), every=0.5)
    progress(f"broker {node.number} is of the {version} version and leads after {waited:.0f} s")
    run.rest()
    return event


def versions(run, binary):
    """All brokers go back to the previous version, one by one, and forward again."""
    present = run.cluster.nodes[0].binary
    steps = [(binary, "previous"), (present, "present")]
    return [replace(run, node, *step) for step in steps for node in run.cluster.nodes]
