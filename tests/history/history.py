"""What clients did and were told, one JSON object per line, and one file for each process.

Every line has `op`, `process`, and `began` and `ended`: nanoseconds of the monotonic clock of one machine. A partition
is written `topic/number`.

    {"op": "send", "partition", "value", "outcome", "offset"}   outcome: ok | fail | info; offset: only if ok, then it may be null
    {"op": "assign", "how", "partitions"}                       how: assign | subscribe; what it reads from now on
    {"op": "poll", "records": [[partition, offset, value]…]}    what one call returned
    {"op": "commit", "group", "offsets": {partition: offset}, "outcome"}
    {"op": "committed", "group", "offsets": {partition: offset}}    what the broker answers at the end
    {"op": "epoch", "why"}                                      a producer begins a new epoch, in which it sends again

`ok` is acknowledged, `fail` is certain not to have happened, and `info` means that the client does not know: a send
that timed out may be in the log, or may still get there; `possibly_persisted` is true if librdkafka gave it that name.
Jepsen uses the same three. Each send has a value of its own,
also when a client sends a record again; producers are idempotent or have one request in flight, so that their order is
defined.
"""

import json
import time
from dataclasses import dataclass, field

OK, FAIL, INFO = "ok", "fail", "info"


class Recorder:
    """Appends the operations of one process to its file. Its process has to end by itself: a killed one loses lines.

    `progress` may be an array that other processes read: at the number of a partition, when the last send began that
    was acknowledged, or the last poll that returned a record.
    """

    def __init__(self, path, process, progress=None):
        self.file, self.process, self.progress = open(path, "w", buffering=1 << 16), process, progress

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, op, began, ended=None, **fields):
        line = {"op": op, "process": self.process, "began": began, "ended": ended or now(), **fields}
        self.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if self.progress is not None:
            if op == "send" and fields["outcome"] == OK:
                self.progress[number_of(fields["partition"])] = began
            for partition in {partition for partition, *_ in fields.get("records", ())}:
                self.progress[number_of(partition)] = began


def number_of(partition):
    return int(partition.rpartition("/")[2])


def now():
    """Nanoseconds of the machine's monotonic clock, the same for all its processes."""
    return time.monotonic_ns()


@dataclass
class History:
    """All operations, by kind, each in the order of its process."""

    sends: list = field(default_factory=list)
    # By process: assign and poll, in their order.
    consumers: dict = field(default_factory=dict)
    commits: list = field(default_factory=list)
    committed: list = field(default_factory=list)
    epochs: list = field(default_factory=list)

    def add(self, line):
        match line["op"]:
            case "send":
                self.sends.append(line)
            case "assign" | "poll":
                self.consumers.setdefault(line["process"], []).append(line)
            case "commit":
                self.commits.append(line)
            case "committed":
                self.committed.append(line)
            case "epoch":
                self.epochs.append(line)
            case other:
                raise ValueError(f"a history has no operation {other!r}")

    def polls(self):
        return (line for lines in self.consumers.values() for line in lines if line["op"] == "poll")


def read(*paths):
    """The history in these files."""
    history = History()
    for path in paths:
        with open(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    history.add(json.loads(line))
                except (ValueError, KeyError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
    return history
