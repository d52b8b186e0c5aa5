"""What a run shows: for each kind of fault how often it was made, and the longest time without an acknowledgement."""

import itertools
import sys
from dataclasses import dataclass, field

import checker

ROLES = ("leader", "follower", "controller")


KILLS = tuple(f"kill -9 of a {role}" for role in ROLES)


@dataclass(frozen=True)
class Event:
    """`kind` is what is counted together; an event without a kind only ends the time of the one before."""

    at: int
    kind: str | None = None


@dataclass
class Result:
    """Of one scenario, or of several rounds of it."""

    cluster: str
    scenario: str
    pauses: dict = field(default_factory=dict)  # kind -> seconds, one for each event
    waits: dict = field(default_factory=dict)  # client -> seconds, one for each event of a kind
    recoveries: list = field(default_factory=list)  # seconds from a broker's start until all is in sync
    acked: int = 0
    unknown: int = 0
    possibly_persisted: int = 0  # records that librdkafka gave up without knowing whether they were written
    persisted: int = 0  # those of them that were
    epochs: list = field(default_factory=list)  # why the writer of librdkafka began new producer epochs
    read: int = 0
    anomalies: list = field(default_factory=list)
    seconds: float = 0.0

    def add(self, events, told, found):
        """Adds what one history shows."""
        events = sorted(events, key=lambda event: event.at)
        times = [event.at for event in events]
        for event, pause in zip(events, checker.pauses(told, times), strict=True):
            if event.kind:
                self.pauses.setdefault(event.kind, []).append(pause)
        for client, waits in checker.pauses_of_clients(told, times).items():
            if client != "reads-all":
                of_kinds = [wait for event, wait in zip(events, waits, strict=True) if event.kind]
                self.waits.setdefault(client, []).extend(of_kinds)
        self.acked += sum(send["outcome"] == "ok" for send in told.sends)
        self.unknown += sum(send["outcome"] == "info" and not send.get("possibly_persisted") for send in told.sends)
        self.read += sum(len(poll["records"]) for poll in told.polls())
        self.anomalies += found
        self.epochs += [epoch["why"] for epoch in told.epochs]
        values = {value for poll in told.polls() for _, _, value in poll["records"]}
        given_up = [send["value"] for send in told.sends if send.get("possibly_persisted")]
        self.possibly_persisted += len(given_up)
        self.persisted += sum(value in values for value in given_up)


def progress(text):
    print(text, file=sys.stderr, flush=True)


def anomalies(told, members):
    """The anomalies of the checker, and the rebalances of groups whose one member stayed."""
    found = checker.check(told)
    for name in members:
        assignments = [line["partitions"] for line in told.consumers.get(name, []) if line["op"] == "assign"]
        # kafka-python begins with none, before it knows the topic.
        assignments = list(itertools.dropwhile(lambda partitions: not partitions, assignments))
        if len(assignments) != 1:
            what = f"{name} got {len(assignments)} assignments, although it was the only member of its group all the time"
            found.append(checker.Anomaly("rebalanced", what))
    return found


def median(numbers):
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def table(results):
    """The lines of the report."""
    rows = [("cluster", "fault", "times", "no ack, s: median", "worst", "in sync again, s: median", "worst")]
    for result in results:
        kills = [pause for kind, pauses in result.pauses.items() if kind in KILLS for pause in pauses]
        recovered = [f"{median(result.recoveries):.1f}", f"{max(result.recoveries):.1f}"] if result.recoveries else ["", ""]
        for kind, pauses in result.pauses.items():
            rows.append((result.cluster, kind, str(len(pauses)), f"{median(pauses):.2f}", f"{max(pauses):.2f}", *recovered))
            recovered = ["", ""]
        if kills:
            rows.append((result.cluster, "every kill -9", str(len(kills)), f"{median(kills):.2f}", f"{max(kills):.2f}", "", ""))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    yield from ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    for result in results:
        events = sum(map(len, result.pauses.values()))
        each = f", {result.seconds / events:.1f} s for each event" if events else ""
        yield (f"{result.cluster} {result.scenario}: {result.acked} sends acknowledged, {result.unknown} unknown, "
               f"{result.read} records read, {len(result.anomalies)} anomalies, {result.seconds:.0f} s{each}")
        yield (f"    librdkafka gave up {result.possibly_persisted} records that were POSSIBLY_PERSISTED, and "
               f"{result.persisted} of them were; its writer began {len(result.epochs)} new epochs")
        yield from (f"    new epoch: {why}" for why in result.epochs[:checker.SHOWN_MAX])
        waits = [f"{client} {max(waits):.2f}" for client, waits in sorted(result.waits.items())]
        yield f"    the longest that a client waited in one partition, s: {', '.join(waits)}"
        yield from (f"    {anomaly}" for anomaly in result.anomalies[:checker.SHOWN_MAX])
