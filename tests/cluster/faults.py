"""Faults of a cluster of three brokers under the load of three client libraries, with the checker of tests/history.

One cluster lives through all scenarios. Each scenario has a topic and clients of its own, but those of TOGETHER share
them in the normal form. When clients end, all records are read and the history is checked: no anomaly is allowed. A wait
that takes too long ends the run with what it waited for.
"""

import argparse
import contextlib
import pathlib
import random
import shutil
import signal
import sys
import time

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "history")]
import clock  # noqa: E402
import clusters  # noqa: E402
import growth  # noqa: E402
import hog  # noqa: E402
import membership  # noqa: E402
import moves  # noqa: E402
import mtu  # noqa: E402
import resources  # noqa: E402
import scenarios  # noqa: E402
import versions  # noqa: E402
from load import MEMBERS, PARTITIONS, Load  # noqa: E402
from network import Network  # noqa: E402
from report import ROLES, Result, anomalies, progress, table  # noqa: E402

MODULES = (scenarios, resources, growth, membership, moves, hog, mtu, versions)
NAMES = ("grow", "kill", "stop", "cut", "partial", "slow", "full", "full_majority", "clock", "moves", "stranger", "roll",
         "replace", "resize", "crash", "hog", "black_hole", "versions")
LONG_ONLY = ("hog", "black_hole", "versions", "full", "replace", "resize")
# Each of them is short beside the time in which clients begin, and all is read.
TOGETHER = ("stop", "cut", "partial", "slow", "full_majority", "clock", "moves", "stranger", "roll")
SCENARIOS = {name: next(getattr(module, name) for module in MODULES if hasattr(module, name)) for name in NAMES}
# A load that acknowledges fewer records in a second of a scenario shows little; faults pause it.
ACKED_PER_S_MIN = 50
# Its records are on their way to a broker that does not answer, for longer than a writer waits.
UNCERTAIN = "stop"


class Runner:
    def __init__(self, options):
        self.options, self.rng = options, random.Random(options.seed)
        self.results, self.topics = [], 0

    def scenario(self, cluster, *rounds):
        """Runs each round, which is a list of scenarios with their arguments, on a topic of its own."""
        names = list(dict.fromkeys(name for steps in rounds for name, _ in steps))
        result = Result(cluster.name, " ".join(names))
        self.results.append(result)
        progress(f"== {cluster.name}: {result.scenario}")
        for steps in rounds:
            began = time.monotonic()
            self.round(cluster, steps, result)
            result.seconds += time.monotonic() - began
        if result.acked < result.seconds * ACKED_PER_S_MIN:
            raise AssertionError(f"{cluster.name}, {result.scenario}: {result.acked} acknowledged records in "
                                 f"{result.seconds:.0f} s are too few for the check to mean anything")
        if UNCERTAIN in names and not result.possibly_persisted:
            raise AssertionError(f"{cluster.name}, {UNCERTAIN}: librdkafka was certain of every record, so nothing shows that "
                                 "one of which it was not is there at most once")

    def round(self, cluster, steps, result):
        self.topics += 1
        directory = self.options.scratch / f"{cluster.name}-{self.topics}-{steps[0][0]}"
        # Leaders are balanced by number: each broker leads one of many partitions, but maybe none of a few.
        partitions = versions.PARTITIONS if steps[0][0] == "versions" else PARTITIONS
        with (self.kept_after_failure(directory), Network() as network,
              Load(cluster, directory.name, directory, self.options.franz_go, partitions) as load):
            run, events = scenarios.Run(cluster, load, network, self.rng), []
            for name, argument in steps:
                began = time.monotonic()
                events += SCENARIOS[name](run, argument)
                progress(f"{name}: {time.monotonic() - began:.0f} s")
            run.rest()
            told = load.finish()
        result.recoveries += run.recoveries
        found = anomalies(told, MEMBERS)
        result.add(events, told, found)
        if found:
            self.keep(directory, *(file for node in cluster.nodes for file in node.save_state()))
        shutil.rmtree(directory)

    @contextlib.contextmanager
    def kept_after_failure(self, directory):
        try:
            yield
        except BaseException:
            if directory.exists():
                self.keep(directory)
            raise

    def keep(self, *paths):
        """Copies a history, or logs, to where they outlive the run."""
        self.options.keep.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.is_dir():
                shutil.copytree(path, self.options.keep / path.name)
            else:
                shutil.copy(path, self.options.keep)
        progress(f"kept in {self.options.keep}: {', '.join(path.name for path in paths)}")

    @contextlib.contextmanager
    def explained(self, cluster):
        """After a failure the logs and the state of the brokers are kept, and warnings are shown."""
        try:
            yield cluster
        except BaseException:
            clusters.show_warnings(cluster)
            for node in cluster.nodes:
                self.keep(node.log_path, *node.save_state())
            raise
        if any(result.anomalies for result in self.results):
            self.keep(*(node.log_path for node in cluster.nodes))

    def ropewalk(self):
        options = self.options
        wanted = options.scenarios or [name for name in NAMES if options.long or name not in LONG_ONLY]
        if "clock" in wanted and not clock.is_possible():
            wanted.remove("clock")
            print("not run: clock, which is for x86-64")
        for name in (name for name in NAMES if name not in wanted):
            print(f"not run: {name}")
        if "versions" in wanted and not versions.previous():
            wanted.remove("versions")
            print("not run: versions, because PREVIOUS_BROKER names no binary")
        if "crash" in wanted:
            self.crash()
        if wanted == ["crash"]:
            return
        with (clusters.ropewalk(options.ropewalk, options.scratch / "ropewalk") as cluster, self.explained(cluster)):
            first, *others = cluster.all
            cluster.add(first)
            rounds = self.rounds(others)
            if "grow" not in wanted:
                cluster.add(*others)
                cluster.wait_until_whole()
            for planned in self.plan([name for name in NAMES if name in rounds and name in wanted], rounds):
                self.scenario(cluster, *planned)
            for node in cluster.nodes:
                node.stop()

    def plan(self, names, rounds):
        """For each result its rounds."""
        together = [] if self.options.long else [name for name in names if name in TOGETHER]
        for name in names:
            if name not in together:
                yield [[(name, argument)] for argument in rounds[name]]
            elif name == together[0]:
                yield [[(one, argument) for one in together for argument in rounds[one]]]

    def rounds(self, joining):
        """For each scenario of the cluster the arguments of its rounds."""
        rounds = {"grow": [joining], "kill": scenarios.rounds_of(self.options.kills), "stranger": [None], "hog": [hog.HOG_S],
                  "black_hole": [None], "versions": [versions.previous()]}
        if not self.options.long:
            stops = [("leader", 1), ("leader", 10), ("follower", 3)]
            cuts = [(1, scenarios.SHORT_CUT_S)]
            return rounds | {"stop": [stops], "cut": cuts, "partial": [("leader",)], "slow": [("leader",)], "moves": [3],
                             "full": [("leader",)], "full_majority": [None], "clock": [[("leader", 3600)]], "roll": [1],
                             "replace": [1], "resize": [1]}
        stops = [("leader", seconds) for seconds in (1, 3, 10, 30, 60) * 4]
        stops += [("follower", seconds) for seconds in (1, 10, 60)]
        jumps = [(role, seconds) for role in ROLES for seconds in (3600, -3600)]
        cuts = [(2, scenarios.CUT_S)] * 10
        return rounds | {"stop": [stops], "cut": cuts, "partial": [ROLES] * 5, "slow": [ROLES] * 5, "moves": [50, 50],
                         "full": [ROLES] * 5, "full_majority": [None] * 5, "clock": [jumps] * 3, "roll": [3] * 3,
                         "replace": [1] * 5, "resize": [1] * 5}

    def crash(self):
        """Each round is the growth of a cluster of its own."""
        for at in range(10 if self.options.long else 1):
            directory = self.options.scratch / f"growing-{at}"
            with clusters.ropewalk(self.options.ropewalk, directory) as cluster, self.explained(cluster):
                first, *others = cluster.all
                cluster.add(first)
                self.scenario(cluster, [("crash", others)])

    def kafka(self):
        with clusters.kafka(self.options.kafka, self.options.scratch / "kafka") as cluster, self.explained(cluster):
            cluster.add(*cluster.all)
            cluster.wait_until_whole()
            self.scenario(cluster, [("kill", self.options.kafka_kills)])


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ropewalk", required=True, metavar="BINARY")
    parser.add_argument("--franz-go", metavar="PROGRAM", help="tests/clients/go/history; without it there are two writers")
    parser.add_argument("--kafka", metavar="LIBS", help="also kill brokers of Apache Kafka; the folder with its jars")
    parser.add_argument("--scratch", required=True, type=pathlib.Path)
    parser.add_argument("--keep", required=True, type=pathlib.Path, help="gets logs and histories after a failure")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kafka-kills", type=int, default=6)
    parser.add_argument("--long", action="store_true")
    some = f"some of {', '.join(NAMES)}; without one, all in the long form, and else all but {', '.join(LONG_ONLY)}"
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=some)
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(NAMES):
        parser.error(f"no scenario {unknown.pop()!r}; there are {', '.join(NAMES)}")
    return options


def main():
    options = parse()
    # Clients and brokers are ended also when this process is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # What an earlier run kept would look like this one's.
    shutil.rmtree(options.keep, ignore_errors=True)
    runner, failure = Runner(options), None
    try:
        runner.ropewalk()
        if options.kafka:
            runner.kafka()
    except (AssertionError, RuntimeError, OSError) as error:
        failure = error
    print(f"seed {options.seed}, {'three' if options.franz_go else 'two'} writers, two groups of one member")
    print(*table(runner.results), sep="\n")
    if failure:
        sys.exit(f"failed: {type(failure).__name__}: {failure}")
    found = sum(len(result.anomalies) for result in runner.results)
    print(f"{sum(len(pauses) for result in runner.results for pauses in result.pauses.values())} events, {found} anomalies")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
