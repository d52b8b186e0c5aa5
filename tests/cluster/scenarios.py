"""Faults of a cluster under load. Each function makes some and returns the events; see report.py.

A scenario leaves the cluster whole: all brokers are there, and all replicas in sync.
"""

import time

import certificates
from clusters import CLUSTER_ID
from history import now
from report import ROLES, Event, progress
from waiting import wait_for

# How long the load goes on before a fault, in seconds.
REST_S = (0.5, 1.5)
# How long the load goes on before a kill, and how much longer the killed broker is away, in seconds.
KILL_REST_S, KILL_DOWN_S = (0.0, 0.5), (0.0, 0.5)
# After so many kills every client has to go on in every partition before the next one.
ALL_GO_ON_EVERY = 5
# Until the others refuse a broker that they do not trust.
REFUSED_S_MAX = 30
# How long a cut lasts after all clients went on, in seconds: longer than an election and the closing of connections.
CUT_S = (4.0, 8.0)
# The same in the normal form: some end before the connections do.
SHORT_CUT_S = (1.0, 3.0)
# One kill of so many hits the broker again while it recovers. An even number: it is one after which partitions went on,
# so that no pause of one kill counts for the other.
AGAIN_EVERY = 10
# A history is held in memory when it is checked.
KILLS_PER_ROUND_MAX = 50


class Run:
    """What scenarios need: the cluster, its load, the network, randomness, and how much of it to do."""

    def __init__(self, cluster, load, network, rng):
        self.cluster, self.load, self.network, self.rng = cluster, load, network, rng
        self.recoveries = []

    def rest(self):
        time.sleep(self.rng.uniform(*REST_S))

    def go_on(self, since, what):
        return self.load.wait_until_all_go_on(since, what)

    def whole(self):
        self.recoveries.append(self.cluster.wait_until_whole(self.load.topic))

    def choose(self, role):
        """A broker that has the role, and what it leads."""
        view = self.cluster.view(self.load.topic)
        return self.cluster.node(pick(view, self.load.topic, role, self.rng))


def pick(view, topic, role, rng):
    """The number of a broker: the leader of some partition, one that leads the fewest, or the controller."""
    leaders = [partition.leader for partition in view.topics[topic].values()]
    match role:
        case "leader":
            return rng.choice(leaders)
        case "follower":
            fewest = min(leaders.count(number) for number in view.brokers)
            return rng.choice([number for number in sorted(view.brokers) if leaders.count(number) == fewest])
        case "controller":
            return view.controller
    raise ValueError(f"no role {role!r}")


def rounds_of(kills):
    """Numbers of kills, at most KILLS_PER_ROUND_MAX each."""
    full, rest = divmod(kills, KILLS_PER_ROUND_MAX)
    return [KILLS_PER_ROUND_MAX] * full + ([rest] if rest else [])


def kill(run, times):
    """kill -9 of leaders, followers and the controller, in turn. One starts again when every partition has acknowledged
    records without it, and the next one at once, as a supervisor of processes would start it. Nothing else is killed
    before all shards have all their replicas again. Clients that wait longer have the time of ALL_GO_ON_EVERY kills."""
    events = []
    for at in range(times):
        time.sleep(run.rng.uniform(*KILL_REST_S))
        role, again = ROLES[at // 2 % len(ROLES)], at % AGAIN_EVERY == AGAIN_EVERY - 2
        node, began = run.choose(role), now()
        what = f"kill {at + 1} of {times}: broker {node.number}, a {role}"
        events.append(Event(began, f"kill -9 of a {role}"))
        node.kill()
        if at % 2 == 0:
            waited = run.load.wait_until_acknowledged(began, what)
            what += f", away until all partitions went on after {waited:.1f} s"
        time.sleep(run.rng.uniform(*KILL_DOWN_S))
        node.start(wait=False)
        if again:
            time.sleep(run.rng.uniform(0.0, 0.5))
            events.append(Event(now(), "kill -9 during recovery"))
            node.kill()
            node.start(wait=False)
        run.whole()
        run.load.wait_until_acknowledged(began, what)
        progress(f"{what}; all in sync {run.recoveries[-1]:.1f} s after its start; {(now() - began) / 1e9:.1f} s in all")
        if at % ALL_GO_ON_EVERY == ALL_GO_ON_EVERY - 1 or at == times - 1:
            run.go_on(began, what)
    return events


def stop(run, pauses):
    """SIGSTOP of a broker with a role, and SIGCONT after so many seconds."""
    events = []
    for role, seconds in pauses:
        run.rest()
        node = run.choose(role)
        events.append(Event(now(), f"SIGSTOP of a {role} for {seconds} s"))
        node.pause()
        time.sleep(seconds)
        events.append(Event(now(), "SIGCONT"))
        node.resume()
        waited = run.go_on(events[-1].at, f"SIGSTOP of broker {node.number} for {seconds} s")
        progress(f"SIGSTOP of broker {node.number} for {seconds} s: all clients went on within {waited:.1f} s")
        run.whole()
    return events


def cut_off(run, node):
    for other in run.cluster.others(node):
        run.network.cut_both(node.host, other.host)


def cut_incoming(run, node):
    for other in run.cluster.others(node):
        run.network.cut(other.host, node.host)


def cut_outgoing(run, node):
    for other in run.cluster.others(node):
        run.network.cut(node.host, other.host)


def cut_one_of_two(run, node):
    run.network.cut_both(node.host, run.rng.choice(run.cluster.others(node)).host)


CUTS = {
    "a broker is cut off": cut_off,
    "a broker receives nothing": cut_incoming,
    "a broker reaches nobody": cut_outgoing,
    "two brokers do not reach each other": cut_one_of_two,
}


def cut(run, how):
    """Each kind of cut so many times, between a leader and others, and the second time and later also between the controller
    and others. Clients reach all brokers. The argument is how often, and how long a cut lasts."""
    (times, lasts_s), events = how, []
    for at in range(times):
        for kind, make in CUTS.items():
            run.rest()
            node = run.choose(run.rng.choice(("leader", "controller")) if at else "leader")
            events.append(Event(now(), kind))
            make(run, node)
            wait_and_heal(run, events, f"broker {node.number}: {kind}", "end of a cut", lasts_s)
    return events


def wait_and_heal(run, events, cut, end, lasts_s=CUT_S):
    """All clients go on while the cut that was made lasts, and after its `end`."""
    waited = run.go_on(events[-1].at, cut)
    progress(f"{cut}; all clients went on within {waited:.1f} s")
    time.sleep(run.rng.uniform(*lasts_s))
    events.append(Event(now(), end))
    run.network.heal()
    run.go_on(events[-1].at, f"{end}: {cut}")
    run.whole()


def partial(run, roles):
    """A broker with a role does not reach one of two others, nor that one it; the third reaches both, and clients all."""
    events = []
    for role in roles:
        run.rest()
        node = run.choose(role)
        other = run.rng.choice(run.cluster.others(node))
        events.append(Event(now(), f"a {role} reaches one of two"))
        run.network.cut_both(node.host, other.host)
        cut = f"broker {node.number}, a {role}, is cut from broker {other.number}"
        wait_and_heal(run, events, cut, "end of a partial cut")
    return events


def roll(run, times):
    """Restarts each broker with SIGTERM, one after the other; the next when all is in sync again."""
    events = []
    for node in run.cluster.nodes * times:
        run.rest()
        events.append(Event(now(), "restart with SIGTERM"))
        node.stop()
        node.start(wait=False)
        run.go_on(events[-1].at, f"rolling restart, broker {node.number}")
        run.whole()
        progress(f"broker {node.number} restarted, all in sync after {run.recoveries[-1]:.1f} s")
    return events


def stranger(run, _):
    """A broker comes back with certificates of another authority: it is refused until it has its own again."""
    events = []
    run.rest()
    node = run.choose("controller")
    others = run.cluster.others(node)
    foreign = node.directory / "foreign"
    foreign.mkdir()
    certificates.make_authority(foreign)
    certificates.make_certificate(foreign, node.number, CLUSTER_ID)
    events.append(Event(now(), "start with certificates of another authority"))
    node.stop()
    logged = {other.number: len(other.log()) for other in others}
    node.take_certificates(foreign)
    node.start(wait=False)

    def missing():
        run.cluster.check_running()
        silent = [f"broker {other.number}" for other in others
                  if "connection of broker refused" not in other.log()[logged[other.number]:]]
        return silent and f"{' and '.join(silent)} logged no refusal"

    wait_for(f"broker {node.number} is refused", REFUSED_S_MAX, missing)
    run.go_on(events[-1].at, f"broker {node.number} is refused")
    views = run.cluster.views(run.load.topic)
    for other in others:
        for at, partition in views[other.number].topics[run.load.topic].items():
            if partition.leader == node.number:
                raise AssertionError(f"{at} is led by broker {node.number}, which has certificates of another authority")
    # It takes the files over while it runs.
    events.append(Event(now(), "certificates of the right authority"))
    node.take_certificates(node.directory)
    run.whole()
    progress(f"broker {node.number} was refused, and all is in sync {run.recoveries[-1]:.1f} s after it had its certificates")
    return events


def grow(run, nodes):
    """Brokers join one after the other, until every replica of every partition is in sync on all of them. Two brokers
    tolerate no failure, so the partitions get more replicas only with the third."""
    events = []
    for node in nodes:
        run.rest()
        events.append(Event(now(), f"join of broker {node.number}"))
        run.cluster.add(node)
        run.go_on(now(), f"join of broker {node.number}")
        progress(f"broker {node.number} joined")
    run.whole()
    progress(f"all in sync after {run.recoveries[-1]:.1f} s")
    run.rest()
    return events

