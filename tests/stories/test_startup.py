"""Many clients during a start, and data directories that were changed while the broker was stopped."""

import shutil
import subprocess
import threading
import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from records import create, send


def test_nobody_who_comes_during_a_start_is_left_without_an_answer(broker, tmp_path):
    admin = AdminClient({"bootstrap.servers": broker.kafka})
    for future in admin.create_topics([NewTopic(f"t{n}", 1) for n in range(300)]).values():
        future.result(60)
    for n in range(32):
        send(broker, f"t{n}", ["x" * 100_000] * 20)
    broker.kill()

    stop, unanswered = threading.Event(), []

    def ask():
        # A tool with a short timeout, started before the port opens.
        while not stop.is_set():
            try:
                AdminClient({"bootstrap.servers": broker.kafka, "log_level": 0}).list_topics(timeout=1)
            except KafkaException as error:
                unanswered.append((time.monotonic(), error.args[0].str()))
            time.sleep(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    readers = [
        subprocess.Popen(
            ["kcat", "-C", "-b", broker.kafka, "-t", f"t{n}", "-p", "0", "-o", "beginning", "-c", "20", "-q", "-E",
             "-X", "api.version.request.timeout.ms=10000", "-X", "log_level=0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(32)
    ]
    try:
        broker.start()
        ready = time.monotonic()
        for reader in readers:
            read, said = reader.communicate(timeout=60)
            assert reader.returncode == 0, said.decode()
            assert read.count(b"\n") == 20, said.decode()
    finally:
        stop.set()
        thread.join()
        for reader in readers:
            reader.kill()
            reader.wait()
    late = [text for at, text in unanswered if at > ready + 1.5]
    assert not late, f"connected and not answered: {late[:3]}"


def test_a_shard_directory_that_is_gone_is_named_and_never_made_anew(broker):
    create(broker, "t", 8)
    send(broker, "t", ["kept"])
    assert broker.stop() == 0
    shards = sorted(path for path in (broker.data / "shards").iterdir() if path.is_dir())
    moved = broker.data.parent / "moved"
    shutil.move(shards[0], moved)
    broker.start(wait=False)
    code = broker.ended(30)
    assert code not in (0, 1), broker.log()[-500:]
    assert shards[0].name in broker.log() or str(shards[0]) in broker.log() or "catalog" in broker.log(), broker.log()[-500:]
    assert not shards[0].exists(), "a lost directory was created again"
    shutil.move(moved, shards[0])
    broker.start()
