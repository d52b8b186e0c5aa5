"""Programs that are built on a client library: Kafka Streams and Kafka Connect."""

import json
import os
import time
import urllib.error
import urllib.request

from broker import free_ports
from records import create, read_all, send


def test_kafka_streams_purges_its_repartition_topic(broker, java, tmp_path):
    create(broker, "words", 2)
    create(broker, "counts", 1)
    streams = java("Repartition", broker.kafka, "words", "counts", tmp_path / "state", 40)
    streams.wait_for(lambda line: line.get("state") == "RUNNING", 30)
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


def test_connect_goes_on_over_restarts(broker, program, tmp_path):
    port, = free_ports(1)
    config = tmp_path / "worker.properties"
    config.write_text("\n".join(f"{key}={value}" for key, value in {
        "bootstrap.servers": broker.kafka, "group.id": "connect", "listeners": f"http://127.0.0.1:{port}",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "key.converter.schemas.enable": "false", "offset.flush.interval.ms": 500,
        "config.storage.topic": "connect-configs", "offset.storage.topic": "connect-offsets",
        "status.storage.topic": "connect-status", "config.storage.replication.factor": 1,
        "offset.storage.replication.factor": 1, "status.storage.replication.factor": 1, "plugin.discovery": "service_load",
    }.items()))
    worker = program(
        "java", "-Xmx384M", "-cp", os.environ["STORIES_CLASSPATH"], "org.apache.kafka.connect.cli.ConnectDistributed", config)

    def rest(path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", data=body and json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}, method="PUT" if body else "GET")
        return json.loads(urllib.request.urlopen(request, timeout=15).read())

    def until(what, seconds_max):
        end = time.monotonic() + seconds_max
        while True:
            assert worker.process.poll() is None, worker.log_path.read_text()[-2000:]
            try:
                found = what()
                if found:
                    return found
            except (urllib.error.URLError, OSError):
                pass
            assert time.monotonic() < end, worker.log_path.read_text()[-2000:]
            time.sleep(0.3)

    def running():
        status = rest("/connectors/source/status")
        states = [task["state"] for task in status["tasks"]]
        assert "FAILED" not in states, status
        return states == ["RUNNING"]

    create(broker, "numbers", 1)
    until(lambda: rest("/"), 60)
    until(lambda: rest("/connectors/source/config", {
        "connector.class": "org.apache.kafka.connect.tools.VerifiableSourceConnector", "tasks.max": "1",
        "topic": "numbers", "throughput": "200",
    }), 30)
    until(running, 60)
    for _ in range(5):
        time.sleep(2)
        broker.kill()
        broker.start()
    until(running, 60)
    before = len(read_all(broker, "numbers"))
    until(lambda: len(read_all(broker, "numbers")) > before + 200, 60)
    sequence = [json.loads(value)["seqno"] for value in read_all(broker, "numbers")]
    assert sorted(set(sequence)) == list(range(max(sequence) + 1)), "a record was lost"
