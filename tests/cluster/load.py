"""The clients of one scenario, on a topic of their own: writers of three libraries that wait for the outcome of each
record, one that does not, and two groups of one member."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time

import clients
import history
import impatient
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import wait_for

PARTITIONS = 6
# Each client begins in a new interpreter: a copy of this process would have locks that librdkafka's threads hold here.
PROCESSES = multiprocessing.get_context("spawn")
# Each is the only member of a group of its name.
MEMBERS = {"member-librdkafka": clients.consume_in_group, "member-kafka-python": clients.consume_with_kafka_python}
# Each of so many partitions gets a record of each writer every 20 ms: less than a pause that is measured.
REST_S = 0.02
# The one that gives records up has one of each partition on its way.
IMPATIENT_REST_S = 0.1
# Until every client goes on in every partition.
GO_ON_S_MAX = 60
# Until records that no client reads are written.
RECORDS_S_MAX = 120


def process_of(name, client, arguments, options):
    return PROCESSES.Process(target=run_client, name=name, args=(client, arguments, options))


def run_client(client, arguments, options):
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    client(*arguments, **options)


class Load:
    """Use it as a context: leaving it by an error kills the clients."""

    def __init__(self, cluster, topic, directory, franz_go=None, partitions=PARTITIONS):
        self.cluster, self.topic, self.directory, self.partitions = cluster, topic, directory, partitions
        self.stop, self.processes = PROCESSES.Event(), []
        self.progress, self.franz_go = {}, franz_go

    def __enter__(self):
        self.directory.mkdir()
        self.create_topic(self.topic, self.partitions)
        with contextlib.ExitStack() as started:
            started.push(self.__exit__)
            self.start()
            self.wait_until_all_go_on(history.now(), "the load begins")
            started.pop_all()
        return self

    def __exit__(self, failed, *_):
        if failed:
            self.show_stacks()
        self.kill()

    def create_topic(self, topic, partitions=PARTITIONS):
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        # As many replicas as the cluster gives to a topic.
        admin.create_topics([NewTopic(topic, partitions, -1)])[topic].result(60)
        self.cluster.wait_until_whole(topic)

    def make_records(self, count, size_bytes):
        """A topic beside that of the clients, with records that nobody reads; its name."""
        topic = f"{self.topic}-beside"
        self.create_topic(topic)
        producer = Producer({"bootstrap.servers": self.cluster.bootstrap, "acks": "all", "log_level": 0})
        for at in range(count):
            while True:
                try:
                    producer.produce(topic, os.urandom(size_bytes), partition=at % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
        if left := producer.flush(RECORDS_S_MAX):
            raise AssertionError(f"{left} records of {topic} were not written in {RECORDS_S_MAX} s")
        return topic

    def show_stacks(self):
        """Each client that still runs prints where it is."""
        for process in self.processes:
            if process.is_alive():
                print(f"the client {process.name}:", file=sys.stderr, flush=True)
                os.kill(process.pid, signal.SIGUSR1)
                time.sleep(0.2)

    def kill(self):
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    def start(self):
        writers = [("librdkafka", clients.write_with_librdkafka, (), {"codec": "lz4"}),
                   ("kafka-python", clients.write_with_kafka_python, (), {})]
        writers.append(("impatient", impatient.write_impatiently, (), {}))
        if self.franz_go:
            writers.append(("franz-go", clients.write_with_franz_go, (self.franz_go,), {}))
        for name, write, first, options in writers:
            rest_s = IMPATIENT_REST_S if name == "impatient" else REST_S
            pace = clients.Pace(self.partitions, rest_s * self.partitions / PARTITIONS)
            options |= {"pace": pace, "progress": self.progress_of(name)}
            file = self.directory / f"{name}.history"
            arguments = (*first, self.cluster.bootstrap, self.topic, self.partitions, name, file, self.stop)
            self.processes.append(process_of(name, write, arguments, options))
        for name, consume in MEMBERS.items():
            file = self.directory / f"{name}.history"
            arguments = (self.cluster.bootstrap, self.topic, self.group(name), name, file, self.stop, self.progress_of(name))
            self.processes.append(process_of(name, consume, arguments, {}))
        for process in self.processes:
            process.start()

    def progress_of(self, client):
        self.progress[client] = PROCESSES.Array("q", self.partitions, lock=False)
        return self.progress[client]

    def group(self, member):
        return f"{self.topic}-{member}"

    def waiting(self, since):
        """Clients and partitions without progress since then: a writer's record that it sent later and that was
        acknowledged, a member's poll that returned records. Nothing if there are none."""
        missing = [f"{name} in {partition}" for name, progress in self.progress.items()
                   for partition, began in enumerate(progress) if began <= since]
        return ", ".join(missing)

    def wait_until_all_go_on(self, since, what):
        """Waits until every client made progress in every partition since then; the seconds that took."""

        def obstacle():
            self.cluster.check_running()
            self.check_clients()
            return self.waiting(since)

        return wait_for(f"{what}: every client goes on in every partition", GO_ON_S_MAX, obstacle)

    def wait_until_acknowledged(self, since, what):
        """Waits until every partition has a record that some writer sent since then and that was acknowledged; the seconds
        that took."""
        writers = [progress for name, progress in self.progress.items() if name not in MEMBERS]

        def obstacle():
            self.cluster.check_running()
            self.check_clients()
            missing = [str(partition) for partition in range(self.partitions)
                       if all(progress[partition] <= since for progress in writers)]
            return missing and f"partitions {', '.join(missing)}"

        return wait_for(f"{what}: every partition acknowledges records", GO_ON_S_MAX, obstacle, every=0.02)

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
        arguments = (self.cluster.bootstrap, self.topic, self.partitions, [self.group(name) for name in MEMBERS], file)
        reader = PROCESSES.Process(target=clients.read_all, args=arguments)
        reader.start()
        reader.join(300)
        if reader.exitcode != 0:
            reader.kill()
            raise AssertionError(f"not all of the topic could be read: {reader.exitcode}")
        return history.read(*self.directory.glob("*.history"))
