"""Frameworks on top of a client library: Kafka Streams and Kafka Connect."""

import json
import os
import threading
import time
import urllib.error
import urllib.request

from broker import free_ports
from records import create, read_all, send


def test_kafka_streams_purges_its_repartition_topic(broker, java, tmp_path):
    create(broker, "words", 2)
    create(broker, "counts", 1)
    streams = java("Repartition", broker.kafka, "words", "counts", tmp_path / "state", 40)
    streams.wait_for(lambda line: line.get("state") == "RUNNING", 90)
    for _ in range(40):
        send(broker, "words", ["one", "two", "two"])
        time.sleep(0.1)

    def counted():
        return {"40", "80"} <= set(read_all(broker, "counts"))

    deadline = time.monotonic() + 20
    while not counted():
        assert time.monotonic() < deadline, "records are not counted"
        time.sleep(0.5)
    name = "story-counts-repartition"
    deadline = time.monotonic() + 15
    while True:
        partitions = broker.get(f"/v1/queues/{name}").get("partitions")
        left = sum(len(read_all(broker, name, p)) for p in range(2))
        if left < 60:
            break
        assert time.monotonic() < deadline, f"{left} records are never deleted from {name} ({partitions})"
        time.sleep(0.5)
    errors = [line for line in streams.ended(60) if "error" in line or line.get("state") == "ERROR"]
    assert not errors, errors


class Worker:
    """A worker of Kafka Connect in distributed mode."""

    def __init__(self, broker, program, directory):
        port, = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        config = directory / "worker.properties"
        config.write_text("\n".join(f"{key}={value}" for key, value in {
            "bootstrap.servers": broker.kafka, "group.id": "connect", "listeners": self.url,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter", "offset.flush.interval.ms": 500,
            "config.storage.topic": "connect-configs", "offset.storage.topic": "connect-offsets",
            "status.storage.topic": "connect-status", "config.storage.replication.factor": 1,
            "offset.storage.replication.factor": 1, "status.storage.replication.factor": 1,
            "plugin.discovery": "service_load",
        }.items()))
        self.worker = program(
            "java", "-Xmx384M", "-cp", os.environ["STORIES_CLASSPATH"], "org.apache.kafka.connect.cli.ConnectDistributed", config)

    def log(self):
        return self.worker.log_path.read_text()

    def rest(self, path, body=None):
        request = urllib.request.Request(
            self.url + path, data=body and json.dumps(body).encode(), headers={"Content-Type": "application/json"},
            method="PUT" if body else "GET")
        return json.loads(urllib.request.urlopen(request, timeout=15).read())

    def until(self, what, seconds_max):
        """Repeats the request until the answer is true, also while the worker is not available yet."""
        end = time.monotonic() + seconds_max
        while True:
            assert self.worker.process.poll() is None, self.log()[-2000:]
            try:
                if found := what():
                    return found
            except (urllib.error.URLError, OSError):
                pass
            assert time.monotonic() < end, self.log()[-2000:]
            time.sleep(0.3)

    def runs(self, connector):
        status = self.rest(f"/connectors/{connector}/status")
        states = [task["state"] for task in status["tasks"]]
        assert "FAILED" not in states, status
        return states == ["RUNNING"]


class Lines(threading.Thread):
    """Appends about 500 numbered lines a second to a file until it is stopped."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.count, self.stopping = path, 0, threading.Event()

    def run(self):
        with open(self.path, "a", buffering=1) as file:
            while not self.stopping.wait(0.02):
                file.write("".join(f"{self.count + i}\n" for i in range(10)))
                self.count += 10

    def stop(self):
        self.stopping.set()
        self.join()


def test_connect_loses_no_line_over_restarts_of_the_broker(broker, program, tmp_path):
    create(broker, "lines", 1)
    source = tmp_path / "lines.txt"
    source.touch()
    worker = Worker(broker, program, tmp_path)
    worker.until(lambda: worker.rest("/"), 60)
    worker.until(lambda: worker.rest("/connectors/lines/config", {
        "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "tasks.max": "1",
        "topic": "lines", "file": str(source),
    }), 30)
    worker.until(lambda: worker.runs("lines"), 60)
    lines = Lines(source)
    lines.start()
    try:
        for turn in range(20 if os.environ.get("LONG") else 6):
            time.sleep(1.5)
            broker.kill() if turn % 2 else broker.stop()
            broker.start()
            assert worker.runs("lines")
    finally:
        lines.stop()

    def all_there():
        return set(read_all(broker, "lines")) == {str(n) for n in range(lines.count)}

    def flushed():
        positions = [json.loads(value)["position"] for p in range(25) for value in read_all(broker, "connect-offsets", p)]
        return max(positions) == source.stat().st_size

    worker.until(all_there, 60)
    worker.until(flushed, 30)
    assert worker.runs("lines")


def test_connect_refuses_a_topic_for_its_configs_that_is_not_compacted(broker, program, tmp_path):
    """It reads the policy with DescribeConfigs and ends with its own error message."""
    create(broker, "connect-configs", 1, **{"cleanup.policy": "delete"})
    worker = Worker(broker, program, tmp_path)
    worker.until(lambda: "is required to have 'cleanup.policy=compact'" in worker.log(), 60)
