"""Looks for anomalies in a history of clients: see history.py. The names are those of Jepsen's workload for Kafka.

    checker.py FILE…      prints what was found; the exit code is 1 if that is an anomaly

The topics keep all records: neither compaction nor retention removes any. The history has to end with a consumer that
reads all of it.

| anomaly | what happened |
|---|---|
| failed-send-seen | a record was read, or has an offset, although its send is certain not to have happened (G1a) |
| never-sent | a record was read that nobody sent |
| inconsistent-offset | one offset of a partition holds two values |
| duplicate | one value is at two offsets |
| lost-write | a send was acknowledged at an offset, a later offset was read, and the record never was |
| unseen | a send was acknowledged, and neither it nor a later offset was read |
| offset-gap | an offset between two others that were read was never read |
| poll-went-back | a consumer read an offset that is not above the one before, without a new assignment |
| poll-skipped | a consumer left out an offset that holds a record, without a new assignment |
| sends-reordered | one producer's records of a partition got offsets in another order than it sent them |
| sent-before | a send began after another was acknowledged, and got a smaller offset |
| commit-lost | a group's offset is below the last one that was acknowledged, and nobody sent it since |
"""

import argparse
import sys
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from history import FAIL, INFO, OK, read

# How many of each kind are shown.
SHOWN_MAX = 5


@dataclass(frozen=True)
class Anomaly:
    kind: str
    what: str

    def __str__(self):
        return f"{self.kind}: {self.what}"


def check(history):
    """All anomalies of a history, in the order of the table above."""
    log, found = Log(), list(locate(history))
    for send in history.sends:
        if send["outcome"] == OK:
            log.add(send["partition"], send["offset"], send["value"])
    for poll in history.polls():
        for partition, offset, value in poll["records"]:
            log.add(partition, offset, value)
            log.read[partition].add(offset)
    found += failed_or_never_sent(history, log)
    found += log.contradictions()
    found += log.duplicates(history)
    found += lost(history, log)
    found += gaps(log)
    for process, lines in history.consumers.items():
        found += out_of_turn(process, lines, log)
    found += reordered(history)
    found += lost_commits(history)
    return found


def locate(history):
    """Sets the offsets of acknowledged sends that have none to where their values were read. librdkafka does not know the
    offset of a record whose answer was lost, and which the answer to a later record shows to be stored."""
    read = {(partition, value): offset for poll in history.polls() for partition, offset, value in poll["records"]}
    for send in history.sends:
        if send["outcome"] == OK and send.get("offset") is None:
            send["offset"] = read.get((send["partition"], send["value"]))
            if send["offset"] is None:
                send["outcome"] = INFO
                what = f"{send['value']!r} was acknowledged in {send['partition']} to {send['process']} without an offset"
                yield Anomaly("lost-write", what)


class Log:
    """What the partitions hold, by all that anybody was told."""

    def __init__(self):
        # partition -> offset -> the values seen there; partition -> value -> the offsets it was seen at
        self.values, self.offsets = defaultdict(dict), defaultdict(dict)
        self.read = defaultdict(set)

    def add(self, partition, offset, value):
        values = self.values[partition].setdefault(offset, (value,))
        if value not in values:
            self.values[partition][offset] = (*values, value)
        offsets = self.offsets[partition].setdefault(value, (offset,))
        if offset not in offsets:
            self.offsets[partition][value] = (*offsets, offset)

    def contradictions(self):
        for partition, values in self.values.items():
            for offset, seen in values.items():
                if len(seen) > 1:
                    yield Anomaly("inconsistent-offset", f"{partition} at {offset}: {' and '.join(map(repr, seen))}")

    def duplicates(self, history):
        sent = {(send["partition"], send["value"]): send for send in history.sends}
        for partition, offsets in self.offsets.items():
            for value, seen in offsets.items():
                if len(seen) > 1:
                    what = f"{value!r} in {partition} at {' and at '.join(map(str, sorted(seen)))}"
                    yield Anomaly("duplicate", what + new_epochs(history, sent.get((partition, value))))


def new_epochs(history, send):
    """Why the producer of a record began new epochs while the record was on its way: a broker cannot recognize what was
    stored in an older one. A broker that gives a producer a reason to do so is at fault all the same."""
    whys = [epoch["why"] for epoch in history.epochs if send and epoch["process"] == send["process"]
            and send["began"] <= epoch["began"] <= send["ended"]]
    return f"; {send['process']} began a new epoch meanwhile: {'; '.join(whys)}" if whys else ""


def failed_or_never_sent(history, log):
    sent = {(send["partition"], send["value"]): send for send in history.sends}
    if len(sent) < len(history.sends):
        raise ValueError("two sends have the same value: then a duplicate shows nothing")
    for partition, offsets in log.offsets.items():
        for value, seen in offsets.items():
            send = sent.get((partition, value))
            if send is None:
                yield Anomaly("never-sent", f"{value!r} in {partition} at {seen[0]}")
            elif send["outcome"] == FAIL:
                yield Anomaly("failed-send-seen", f"{value!r} in {partition} at {seen[0]}, sent by {send['process']}")


def lost(history, log):
    last_read = {partition: max(read) for partition, read in log.read.items() if read}
    for send in history.sends:
        partition, offset = send["partition"], send.get("offset")
        if send["outcome"] != OK or offset in log.read[partition]:
            continue
        kind = "lost-write" if last_read.get(partition, -1) > offset else "unseen"
        yield Anomaly(kind, f"{send['value']!r} was acknowledged in {partition} at {offset} to {send['process']}")


def gaps(log):
    for partition, read in log.read.items():
        ordered = sorted(read)
        for before, after in zip(ordered, ordered[1:]):
            if after != before + 1:
                yield Anomaly("offset-gap", f"{partition} has no record from {before + 1} to {after - 1}")


def out_of_turn(process, lines, log):
    """Reads of one consumer that go back or leave out. With a new assignment it may begin anywhere."""
    at = {}
    for line in lines:
        if line["op"] == "assign":
            at = {}
            continue
        for partition, offset, _ in line["records"]:
            before = at.get(partition)
            at[partition] = offset
            if before is None:
                continue
            if offset <= before:
                yield Anomaly("poll-went-back", f"{process} read {partition} at {offset} after {before}")
            elif any(between in log.values[partition] for between in range(before + 1, offset)):
                yield Anomaly("poll-skipped", f"{process} read {partition} at {offset} after {before}")


def reordered(history):
    by_producer, by_partition = defaultdict(list), defaultdict(list)
    for send in history.sends:
        if send["outcome"] == OK:
            by_producer[send["process"], send["partition"]].append(send)
            by_partition[send["partition"]].append(send)
    for (process, partition), sends in by_producer.items():
        sends.sort(key=lambda send: send["began"])
        for before, after in zip(sends, sends[1:]):
            if after["offset"] < before["offset"]:
                yield Anomaly("sends-reordered", f"{process} sent {before['value']!r}, then {after['value']!r}, in "
                              f"{partition} they are at {before['offset']} and {after['offset']}")
    for partition, sends in by_partition.items():
        yield from sent_before(partition, sends)


def sent_before(partition, sends):
    """Between producers: whoever began after an acknowledgement has a larger offset."""
    ended = sorted(sends, key=lambda send: send["ended"])
    at, largest = 0, None
    for send in sorted(sends, key=lambda send: send["began"]):
        while at < len(ended) and ended[at]["ended"] < send["began"]:
            if largest is None or ended[at]["offset"] > largest["offset"]:
                largest = ended[at]
            at += 1
        # Within one producer this is reordering, and reported as such.
        if largest and send["offset"] < largest["offset"] and send["process"] != largest["process"]:
            yield Anomaly("sent-before", f"{largest['value']!r} was acknowledged in {partition} at {largest['offset']} "
                          f"before {send['value']!r} was sent, which is at {send['offset']}")


def lost_commits(history):
    """A group's offset at the end is the last acknowledged one, or one that was sent after it began."""
    commits = defaultdict(list)
    for commit in history.commits:
        for partition, offset in commit["offsets"].items():
            commits[commit["group"], partition].append((commit, offset))
    for answer in history.committed:
        for partition, offset in answer["offsets"].items():
            sent = commits[answer["group"], partition]
            acked = [(commit["began"], offset) for commit, offset in sent if commit["outcome"] == OK]
            if not acked:
                continue
            began, last = max(acked)
            # One whose outcome is unknown may be applied at any time after it was sent.
            unknown = {offset for commit, offset in sent if commit["outcome"] == INFO}
            if offset != last and offset not in unknown:
                yield Anomaly("commit-lost", f"{answer['group']} is at {offset} of {partition}; "
                              f"acknowledged was {last}")


def pauses(history, events):
    """For each event (nanoseconds of the same clock) the longest time in seconds, from it on and until the next event,
    that a partition waited for an acknowledgement. The load has to reach every partition all the time."""
    acks = defaultdict(list)
    for send in history.sends:
        if send["outcome"] == OK:
            acks[send["partition"]].append(send["ended"])
    return longest_gaps(acks.values(), events)


def pauses_of_clients(history, events):
    """The same for each process: the time that it waited in one partition, for an acknowledgement or for records."""
    times = defaultdict(lambda: defaultdict(list))
    for send in history.sends:
        if send["outcome"] == OK:
            times[send["process"]][send["partition"]].append(send["ended"])
    for poll in history.polls():
        for partition in {partition for partition, *_ in poll["records"]}:
            times[poll["process"]][partition].append(poll["ended"])
    return {process: list(longest_gaps(of.values(), events)) for process, of in times.items()}


def longest_gaps(all_times, events):
    """For each event the longest gap in seconds in one of the lists of times, from the event on and until the next."""
    all_times = [sorted(times) for times in all_times]
    events = sorted(events)
    for event, following in zip(events, [*events[1:], float("inf")]):
        longest = 0
        for times in all_times:
            first = bisect_right(times, event)
            for before, after in zip([event, *times[first:]], times[first:]):
                if before >= following:
                    break
                longest = max(longest, min(after, following) - before)
        yield longest / 1e9


def summary(history, found):
    """The lines to print: what the history holds, how many anomalies of each kind, and some of them."""
    outcomes = defaultdict(int)
    for send in history.sends:
        outcomes[send["outcome"]] += 1
    records = sum(len(poll["records"]) for poll in history.polls())
    commits = sum(commit["outcome"] == OK for commit in history.commits)
    lines = [f"{outcomes[OK]} sends acknowledged, {outcomes[FAIL]} failed, {outcomes[INFO]} unknown, "
             f"{records} records read, {commits} commits acknowledged, {len(found)} anomalies"]
    by_kind = defaultdict(list)
    for anomaly in found:
        by_kind[anomaly.kind].append(anomaly)
    for kind, anomalies in by_kind.items():
        lines.append(f"{kind}: {len(anomalies)}")
        lines += [f"    {anomaly.what}" for anomaly in anomalies[:SHOWN_MAX]]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    history = read(*arguments.files)
    if not any(send["outcome"] == OK for send in history.sends):
        sys.exit("no send was acknowledged: the history shows nothing")
    found = check(history)
    print(*summary(history, found), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
