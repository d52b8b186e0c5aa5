"""The clients of one scenario: writers of three libraries and a member of a group, on a topic of their own."""

import contextlib
import multiprocessing

import checker
import clients
import history
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import wait_for

PARTITIONS, GROUP = 6, "members"
# Each partition gets a record of each writer every 20 ms: less than a pause that is measured.
PACE = clients.Pace(PARTITIONS, 0.02)
# Until every writer has an acknowledgement of every partition.
ACKS_S_MAX = 60


class Load:
    """Use it as a context: leaving it by an error kills the clients."""

    def __init__(self, cluster, topic, directory, franz_go=None):
        self.cluster, self.topic, self.directory = cluster, topic, directory
        self.stop, self.processes = multiprocessing.Event(), []
        self.acks, self.franz_go = {}, franz_go

    def __enter__(self):
        self.directory.mkdir()
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        # As many replicas as the cluster gives to a topic.
        admin.create_topics([NewTopic(self.topic, PARTITIONS, -1)])[self.topic].result(60)
        self.cluster.wait_until_whole(self.topic)
        with contextlib.ExitStack() as started:
            started.callback(self.kill)
            self.start()
            self.wait_until_acked(history.now(), "the load has begun")
            started.pop_all()
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    def start(self):
        writers = [("librdkafka", clients.write_with_librdkafka, (), {"codec": "lz4"}),
                   ("kafka-python", clients.write_with_kafka_python, (), {})]
        if self.franz_go:
            writers.append(("franz-go", clients.write_with_franz_go, (self.franz_go,), {}))
        for name, write, first, options in writers:
            self.acks[name] = multiprocessing.Array("q", PARTITIONS, lock=False)
            options |= {"pace": PACE, "acks": self.acks[name]}
            file = self.directory / f"{name}.history"
            arguments = (*first, self.cluster.bootstrap, self.topic, PARTITIONS, name, file, self.stop)
            self.processes.append(multiprocessing.Process(target=write, name=name, args=arguments, kwargs=options))
        member = (self.cluster.bootstrap, self.topic, GROUP, "member", self.directory / "member.history", self.stop)
        self.processes.append(multiprocessing.Process(target=clients.consume_in_group, name="member", args=member))
        for process in self.processes:
            process.start()

    def unacked(self, since):
        """Writers and partitions without an acknowledgement of a record that was sent since then; nothing if none."""
        missing = [f"{name} in {partition}" for name, acks in self.acks.items()
                   for partition, began in enumerate(acks) if began <= since]
        return ", ".join(missing)

    def wait_until_acked(self, since, what, seconds_max=ACKS_S_MAX):
        """Waits until each writer has an acknowledgement of each partition for a record that it sent since then."""

        def obstacle():
            self.cluster.check_running()
            self.check_clients()
            return self.unacked(since)

        return wait_for(f"{what}: every writer has an acknowledgement of every partition", seconds_max, obstacle)

    def check_clients(self):
        for process in self.processes:
            if process.exitcode is not None:
                raise AssertionError(f"the client {process.name} ended during the load with {process.exitcode}")

    def finish(self):
        """Ends the clients, reads all of the topic, and returns the history."""
        self.stop.set()
        for process in self.processes:
            process.join(clients.LAST_ANSWERS_S + 30)
            if process.exitcode != 0:
                raise AssertionError(f"the client {process.name} did not end well: {process.exitcode}")
        file = self.directory / "all.history"
        # In a process of its own, because it exits if it cannot read all.
        arguments = (self.cluster.bootstrap, self.topic, PARTITIONS, GROUP, file)
        reader = multiprocessing.Process(target=clients.read_all, args=arguments)
        reader.start()
        reader.join(300)
        if reader.exitcode != 0:
            reader.kill()
            raise AssertionError(f"not all of the topic could be read: {reader.exitcode}")
        return history.read(*self.directory.glob("*.history"))


def anomalies(told, rebalances_max=0):
    """The anomalies of the checker, and the rebalances of a group whose one member stayed."""
    found = checker.check(told)
    assignments = sum(line["op"] == "assign" for line in told.consumers.get("member", []))
    if assignments > 1 + rebalances_max:
        what = f"the member got {assignments} assignments, although it was the only member all the time"
        found.append(checker.Anomaly("rebalanced", what))
    return found
