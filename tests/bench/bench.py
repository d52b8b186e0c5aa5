"""Benchmarks ropewalk and its peers on the same disk in the same run, interleaved; prints a table of medians and ratios.

A round starts each server in turn on an empty directory in a memory cgroup of its own, fills that cgroup with page
cache, runs every scenario that the server's clients can drive, and ends it. The order turns from round to round, so that
what drifts on the machine meets all alike. A ratio is ours to theirs in the same round, turned so that more than 1 is in
our favour; a cell shows the median and the range over the rounds. What fails is printed.

With --cluster it compares clusters of three brokers, each in one memory cgroup: cluster_servers.py says how they are set up.

Forms: --check (30 s to 60 s, ropewalk alone, one broker and three: every row must have a value), --quick (one short round), the default, and
--long, in which each load of 1 KiB records at full speed and at a fixed rate takes 60 s: 10 to 16 minutes for each round
of a server that speaks Kafka.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cgroup
import machine
import peers
import scenarios
import summary
from clients import Failed, NotPossible, load, measure, run
from cluster_scenarios import CLUSTER
from cluster_servers import CLUSTERS
from forms import FORMS
from rows import cluster_rows, rows
from servers import SERVERS

@dataclass(frozen=True)
class Kind:
    """What is compared: servers by name, the scenarios for each protocol, and the rows of the table."""

    servers: dict
    scenarios: dict
    rows: Callable
    # Whether the scenarios are run again with a small memory limit.
    is_limited: bool
    # Limit of the memory cgroup of a server, or of all brokers of a cluster.
    memory_gib: float


SCENARIOS = {"kafka": scenarios.KAFKA, "nats": [peers.nats], "amqp": [peers.amqp]}
SINGLE = Kind(SERVERS, SCENARIOS, rows, is_limited=True, memory_gib=4)
CLUSTERED = Kind(CLUSTERS, {"kafka": CLUSTER}, cluster_rows, is_limited=False, memory_gib=6)
# The scenario that rows.py names for the peers' own clients.
NAMES = {"nats": "peer", "amqp": "peer"}
LIMITED_BYTES = 512 << 20
# What clients, servers and the reading of their output can raise. The run goes on with the next scenario.
EXPECTED = (Failed, OSError, RuntimeError, ValueError, LookupError, TypeError, ZeroDivisionError)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Measured(dict):
    """The values of one server in one round. A name that rows.py does not list is refused."""

    def __init__(self, known):
        super().__init__()
        self.known, self.sweep, self.failures = {row.name for row in known}, [], []

    def __setitem__(self, name, value):
        if name not in self.known:
            raise KeyError(f"rows.py has no row {name!r}")
        super().__setitem__(name, value)


class Bench:
    """A whole run: its settings, and what every round of every server measured."""

    def __init__(self, arguments, kind, form, names):
        self.kind, self.form, self.names, self.directory = kind, form, names, arguments.directory
        self.only_scenarios = set(filter(None, arguments.scenarios.split(",")))
        self.limit_bytes = int((arguments.memory_gib or kind.memory_gib) * 2**30)
        self.rows = kind.rows(form.queues)
        self.disk = machine.Disk(self.directory)
        self.taken = {name: [] for name in names}
        self.notes = []
        try:
            self.groups = cgroup.find_parent()
            cgroup.remove_leftovers(self.groups[0])
        except cgroup.CannotMake as cause:
            self.groups = None
            self.note(f"NO MEMORY CGROUP: {cause}. Memory is not limited, and memory rows are of the process alone.")
        if not self.disk.is_known():
            self.note(f"The block device below {self.directory} is not known: no device bytes.")

    def note(self, text):
        if text not in self.notes:
            say(text)
            self.notes.append(text)

    def group(self, name, limit_bytes):
        if not self.groups:
            return cgroup.NoGroup()
        parent, version = self.groups
        return cgroup.Group(cgroup.make(parent, version, name), version, limit_bytes)

    def wanted(self, scenario):
        return not self.only_scenarios or scenario in self.only_scenarios

    def with_server(self, name, limit_bytes, measured, measure_it):
        """Calls `measure_it` with a server of its own in a cgroup of its own. What fails is kept, not raised."""
        try:
            with self.group(name, limit_bytes) as group, self.kind.servers[name](name, self.directory, group) as server:
                measure_it(scenarios.Run(server, self.form, self.disk, measured, self.note))
        except EXPECTED as error:
            self.failed(measured, name, "start", error)

    def failed(self, measured, name, scenario, error):
        is_fault = not isinstance(error, NotPossible)
        shown = f"{type(error).__name__}: {error}"
        measured.failures.append({"server": name, "scenario": scenario, "error": shown, "is_fault": is_fault})
        say(f"FAILED: {name}, {scenario}: {error}")

    def one_round(self, name):
        measured = Measured(self.rows)
        self.with_server(name, self.limit_bytes, measured, self.main_part)
        if self.is_limited(name) and self.wanted("limited"):
            if self.groups:
                self.with_server(name, LIMITED_BYTES, measured, self.limited_part)
            else:
                self.failed(measured, name, "limited", NotPossible("no memory cgroup can be made"))
        return measured

    def is_limited(self, name):
        return self.kind.is_limited and self.kind.servers[name].speaks == "kafka"

    def main_part(self, of_round):
        self.start(of_round.server, of_round.measured)
        for scenario in self.kind.scenarios[of_round.server.speaks]:
            self.scenario(scenario, of_round)

    def limited_part(self, of_round):
        of_round.server.start()
        load(of_round.server, "first-ack")
        self.scenario(scenarios.limited, of_round)

    def start(self, server, measured):
        """Starts the server and warms it up: first its cgroup's memory, then the process."""
        measured["every acknowledged record is fsynced"] = "yes" if server.is_durable else "no"
        started = server.start()
        if server.speaks == "kafka":
            measured["start to first ack"] = load(server, "first-ack")["unix_s"] - started
        server.wait_until_it_listens()
        if self.kind is CLUSTERED:
            # A cluster that grows from one broker copies its shards first.
            server.wait_until_caught_up("first-ack", 1)
        time.sleep(self.form.idle_seconds)
        measured["memory idle, peak"] = server.peak_mib()
        size = int(self.limit_bytes * self.form.warm_share)
        fill = [os.environ["ROPEWALK_LOAD"], "fill", "--file", server.directory / "warm-up", "--size-bytes", str(size)]
        filled = json.loads(run(server.group.wrap(map(str, fill))))
        measured["page-cache write after the warm-up"] = filled["last_cpu_s_per_gib"]
        if server.speaks == "kafka":
            seconds = self.form.cluster_warm_seconds if self.kind is CLUSTERED else self.form.warm_seconds
            load(server, "produce", "--topic", "warm-up", "--partitions", 12, "--seconds", seconds)
            load(server, "delete", "--topic", "warm-up")

    def scenario(self, scenario, of_round):
        server = of_round.server
        name = NAMES.get(scenario.__name__, scenario.__name__)
        if not self.wanted(name):
            return
        try:
            if server.obituary():
                raise Failed(server.obituary())
            scenario(of_round)
        except EXPECTED as error:
            cause = server.obituary()
            self.failed(of_round.measured, server.name, name, Failed(f"{error} ({cause})") if cause else error)

    def take(self, rounds):
        for i in range(rounds):
            turn = i % len(self.names)
            for name in self.names[turn:] + self.names[:turn]:
                started = time.monotonic()
                self.taken[name].append(self.one_round(name))
                say(f"round {i + 1} of {rounds}: {name} in {time.monotonic() - started:.0f} s")

    def expected(self, name):
        """The names of the rows that a round of this server should fill."""
        speaks = self.kind.servers[name].speaks
        run_here = {"start", "limited" if self.is_limited(name) else ""}
        run_here |= {NAMES.get(scenario.__name__, scenario.__name__) for scenario in self.kind.scenarios[speaks]}
        run_here = {scenario for scenario in run_here if scenario == "start" or self.wanted(scenario)}
        of_kafka_alone = {"start to first ack"} if speaks != "kafka" else set()
        names = [row.name for row in self.rows if run_here & set(row.scenarios)]
        if not self.disk.is_known():
            names = [found for found in names if not found.startswith("device bytes")]
        return [found for found in names if found not in of_kafka_alone]

    def missing(self, name):
        """How many rounds have no value for an expected row."""
        counts = {row: sum(row not in measured for measured in self.taken[name]) for row in self.expected(name)}
        return {row: count for row, count in counts.items() if count}

    def faults(self):
        """Rows without a value, other than those that this machine does not allow."""
        impossible = {failure["scenario"] for failure in self.failures() if not failure["is_fault"]}
        excused = {row.name for row in self.rows if impossible & set(row.scenarios)}
        return [f"{name}: {row}" for name in self.names for row in self.missing(name) if row not in excused]

    def failures(self):
        return [failure for name in self.names for measured in self.taken[name] for failure in measured.failures]


def report(bench, rounds, probe):
    """The text that a run prints: machine, probe, notes, table, sweep, failures."""
    form = "" if bench.form.name == "default" else f"{bench.form.name} form, "
    each_in = "three brokers together" if bench.kind is CLUSTERED else "each server"
    limit = f"{each_in} in a memory cgroup of {bench.limit_bytes / 2**30:.3g} GiB" if bench.groups else "NO MEMORY CGROUP"
    times = f"{rounds} round{'s' if rounds > 1 else ''}"
    title = f"{time.strftime('%Y-%m-%d')}, {machine.description()}, {form}{times}, {limit}"
    missing = {name: bench.missing(name) for name in bench.names}
    parts = [title, summary.probe_lines(probe), *bench.notes, summary.table(bench.rows, bench.names, bench.taken, missing)]
    sweep = summary.sweep_table(bench.names, {name: [m.sweep for m in bench.taken[name]] for name in bench.names})
    if sweep:
        parts += ["Sweep: MB/s and p99 of each window, medians", sweep]
    lines = [f"- {failure['server']}, {failure['scenario']}: {failure['error']}" for failure in bench.failures()]
    parts += ["Failures:" if lines else "No failures.", *(["\n".join(lines)] if lines else [])]
    return "\n\n".join(parts) + "\n"


def write(path, bench, probe, shown):
    units = {row.name: row.unit for row in bench.rows}
    of_rounds = {
        name: [{f"{row} [{units[row]}]": value for row, value in measured.items()} for measured in of_name]
        for name, of_name in bench.taken.items()
    }
    sweeps = {name: [measured.sweep for measured in of_name] for name, of_name in bench.taken.items()}
    whole = {"machine": machine.description(), "form": bench.form.name, "probe": probe, "notes": bench.notes}
    whole |= {"rounds": of_rounds, "sweeps": sweeps, "failures": bench.failures()}
    Path(path).write_text(json.dumps(whole, indent=1, ensure_ascii=False))
    Path(path).with_suffix(".md").write_text(shown)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--check", action="store_true", help="very short loads: does every row run?")
    forms.add_argument("--quick", action="store_true", help="short loads, a short sweep, no 10,000 queues, one round")
    forms.add_argument("--long", action="store_true", help="60 s for loads at full speed and at a fixed rate")
    parser.add_argument("--cluster", action="store_true", help="clusters of three brokers instead of single servers")
    parser.add_argument("--rounds", type=int, help="how often each server is measured (3; 1 if check or quick)")
    parser.add_argument("--only", default="", help=f"some of the servers ({','.join(SERVERS)}; clusters: {','.join(CLUSTERS)}; ropewalk if check)")
    parser.add_argument("--scenarios", default="", help="some of the scenarios, as rows.py names them")
    parser.add_argument("--memory-gib", type=float, help="limit of each server's memory cgroup (4; 6 for a cluster)")
    directory = os.environ.get("BENCH_DIRECTORY", "")
    parser.add_argument("--directory", default=directory, help="where the servers keep their data")
    parser.add_argument("--out", default="", help="also writes every value to this file of JSON, and the table beside it")
    return parser, parser.parse_args()


def chosen(parser, arguments, kind):
    """The names of the servers of this kind that the run measures."""
    only = arguments.only or ("ropewalk" if arguments.check else ",".join(kind.servers))
    unknown = set(only.split(",")) - set(kind.servers)
    if unknown:
        parser.error(f"--only: no server is called {', '.join(sorted(unknown))}")
    return [name for name in kind.servers if name in only.split(",")]


def measured_text(arguments, bench, rounds, probe):
    """Takes all rounds; the report, which is also written to the files that were asked for."""
    bench.take(rounds)
    shown = report(bench, rounds, probe)
    if arguments.out:
        write(arguments.out, bench, probe, shown)
    return shown


def main():
    parser, arguments = parsed()
    form = FORMS[next((name for name in ("check", "quick", "long") if getattr(arguments, name)), "default")]
    # The check is of all rows, unless some are asked for.
    kinds = [CLUSTERED] if arguments.cluster else [SINGLE]
    if arguments.check and not (arguments.only or arguments.scenarios):
        kinds = [SINGLE, CLUSTERED]
    names = [chosen(parser, arguments, kind) for kind in kinds]
    free = machine.free_gib(arguments.directory)
    if free < form.disk_gib:
        needs = f"the {form.name} form needs {form.disk_gib} GiB free in {arguments.directory}"
        parser.error(f"{needs}, which has {free:.0f} (--directory names another place)")
    machine.allow_many_files()
    # Servers end and cgroups are removed however the run ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    sizes = ["--size-bytes", form.probe_bytes, "--seconds", form.probe_seconds]
    probe = measure("probe", "--directory", arguments.directory, *sizes)
    missing = []
    for kind, of_kind in zip(kinds, names):
        bench = Bench(arguments, kind, form, of_kind)
        print(measured_text(arguments, bench, arguments.rounds or form.rounds, probe))
        missing += bench.faults()
    if arguments.check:
        sys.exit("\n".join(["rows without a value:", *missing]) if missing else 0)


if __name__ == "__main__":
    main()
