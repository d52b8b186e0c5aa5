"""A cluster of three brokers that lost all its disks, restored from its bucket alone (T2)."""

import json
import subprocess

from confluent_kafka import Consumer, TopicPartition
from harness import COPIED, SECONDS_MAX, Writer, check_bucket, read, wait_for

TOPIC, GROUP, PARTITIONS = "lost", "readers", 3
UPLOADED, LATER = 1200, 200
# Checkpoints follow at once.
SETTINGS = {"ropewalk.tier.checkpoint.interval.ms": 300}


def consumer(cluster):
    return Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": GROUP, "enable.auto.commit": False, "log_level": 0})


def commit(cluster, offsets):
    of_group = consumer(cluster)
    for result in of_group.commit(offsets=[TopicPartition(TOPIC, *one) for one in offsets.items()], asynchronous=False):
        assert not result.error, result.error
    of_group.close()


def committed(cluster):
    of_group = consumer(cluster)
    found = of_group.committed([TopicPartition(TOPIC, at) for at in range(PARTITIONS)], SECONDS_MAX)
    of_group.close()
    return {one.partition: one.offset for one in found if one.offset >= 0}


def restore(cluster, *more, data=None):
    """`ropewalk-broker restore` into the directory of the first broker; its report."""
    member = cluster.members[0]
    command = [cluster.binary, "--log", "warn", "restore", "--from", f"s3://{cluster.bucket_and_prefix}", "--json",
               "--config", member.config, "--data-dir", data or member.data, *more]
    # The proxies run only while the brokers do.
    command += ["--set", f"ropewalk.tier.endpoint=http://{cluster.server.address}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ended.returncode == 0, f"`restore` ended with {ended.returncode}: {ended.stdout} {ended.stderr}"
    return json.loads(ended.stdout)


def wait_for_checkpoints(cluster):
    """Until the checkpoints have the last records and offsets: a plan can be made while the cluster runs."""
    def obstacle():
        planned = restore(cluster, "--plan", data=cluster.directory / "planned")
        found = planned["recordsLost"], len(planned["capped"]), planned["groupOffsets"]
        return None if found == (PARTITIONS * LATER, 1, 2) else f"records lost, offsets lowered, offsets: {found}"

    wait_for("every change is in a checkpoint", SECONDS_MAX, obstacle, every=0.5)


def test_t2_three_brokers_are_restored_from_their_bucket_alone(start_cluster, note):
    lost = start_cluster(3, SETTINGS)
    lost.create(TOPIC, COPIED, PARTITIONS)
    writers = [Writer(lost, TOPIC, at) for at in range(PARTITIONS)]
    for writer in writers:
        writer.write(UPLOADED)
    lost.wait_until_uploaded(TOPIC, PARTITIONS)
    # What follows is not uploaded.
    lost.alter(TOPIC, {"remote.log.copy.disable": "true"})
    for writer in writers:
        writer.write(LATER)
    commit(lost, {0: UPLOADED + LATER, 1: 700})
    wait_for_checkpoints(lost)
    names = lost.bucket().names()
    for member in lost.members:
        member.kill()

    def restored_first(cluster):
        planned = restore(cluster, "--plan")
        assert planned["stage"] == "planned" and cluster.bucket().names() == names and not cluster.members[0].data.exists()
        report = restore(cluster)
        assert report["stage"] == "restored", report
        for one in report["partitions"]:
            found = (one["logStart"], one["end"], one["lostRecords"])
            assert found == (0, UPLOADED, LATER), report
        assert report["recordsLost"] == PARTITIONS * LATER and report["ignored"] == [] == report["losses"], report
        (capped,) = report["capped"]
        assert (capped["group"], capped["partition"], capped["from"], capped["to"]) == (
            GROUP, 0, UPLOADED + LATER, UPLOADED), capped
        assert restore(cluster)["stage"] == "alreadyRestored"

    restored = start_cluster(3, SETTINGS, prepare=restored_first)
    assert committed(restored) == {0: UPLOADED, 1: 700}
    for writer in writers:
        found = read(restored, TOPIC, writer.partition)
        assert found == [(offset, writer.acked[offset]) for offset in range(UPLOADED)], "other records than before"

    restored.alter(TOPIC, {"remote.log.copy.disable": "false"})
    for at in range(PARTITIONS):
        writer = Writer(restored, TOPIC, at)
        writer.write(LATER)
        assert sorted(writer.acked) == list(range(UPLOADED, UPLOADED + LATER)), "offsets do not continue"
    restored.wait_until_uploaded(TOPIC, PARTITIONS)
    check_bucket(restored, TOPIC)

    # The disks are found again: the cluster that was lost serves its clients, and does not write to the bucket.
    names = set(restored.bucket().names(suffix=".rwo"))
    for member in lost.members:
        member.start(wait=False)
    lost.wait_until_whole()
    for member in lost.members:
        def obstacle():
            said = member.conditions().get("tier_failing", "")
            return None if "was taken over by claim 2" in said else f"the condition says {said!r}"

        wait_for(f"broker {member.number} says whose the bucket is", SECONDS_MAX, obstacle)
    lost.alter(TOPIC, {"remote.log.copy.disable": "false"})
    for writer in writers:
        writer.write(LATER)
        assert lost.tier_end(TOPIC, writer.partition) == UPLOADED
    assert set(restored.bucket().names(suffix=".rwo")) == names
    note(f"{PARTITIONS * UPLOADED} records of three brokers were restored, {PARTITIONS * LATER} reported as lost")
