"""Programs that are built on a client library: Kafka Streams."""

import time

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
