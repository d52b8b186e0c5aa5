"""A bucket in trouble: acknowledgements go on while the disks have space, conditions and metrics say what is wrong,
nothing is read that was not written, and when the trouble ends, uploads continue and every record is there once."""

import threading
import time

import clock
import pytest
from harness import (
    COPIED, MOVED, OBJECT, SECONDS_MAX, Writer, check_bucket, check_by_program, check_records, offsets, read,
    wait_for,
)
from proxy import GET, PUT, Corrupt, Delay, DropAnswer, Hold, Refuse, Silence, Truncate

TOPIC = "trouble"
# One object and more.
RECORDS = 1500
# The exit code that --help names.
WRONG_SETTINGS = 2
# What a person has to correct is tried again once in this time at the latest.
REPORTED_S_MAX = 60
# Longest time until the next attempt: that pause, keys that are read again, and the attempt.
RECOVERY_S_MAX = REPORTED_S_MAX + 30


@pytest.fixture
def cluster(start_cluster):
    return start_cluster()


def begin(cluster, config=None):
    """A topic with records that are in the bucket."""
    cluster.create(TOPIC, config or MOVED)
    writer = Writer(cluster, TOPIC)
    writer.write(RECORDS)
    cluster.wait_until_uploaded(TOPIC)
    return writer


def in_trouble(cluster, writer, *expected, kind=None):
    """Acknowledgements go on, and condition and metrics say what the trouble is, with all these texts."""
    writer.write(RECORDS)

    def obstacle():
        said = cluster.member.conditions().get("tier_failing", "")
        return None if said and all(text in said for text in expected) else f"the condition says {said!r}"

    wait_for(f"the condition says {expected}", SECONDS_MAX, obstacle)
    writer.write(100)
    assert cluster.member.metric("ropewalk_tier_lag_bytes") > 0
    errors = cluster.member.metrics("ropewalk_tier_errors_total")
    assert sum(errors.values()) > 0 and (kind is None or any(kind in labels for labels in errors)), errors


def is_over(cluster, writer, seconds_max=SECONDS_MAX):
    """Uploads go on, and everything is there once."""
    took = cluster.wait_until_uploaded(TOPIC, seconds_max=seconds_max)
    wait_for("the condition ends", SECONDS_MAX, lambda: cluster.member.conditions().get("tier_failing"))
    writer.write(RECORDS)
    cluster.wait_until_uploaded(TOPIC)
    wait_for("nothing waits", SECONDS_MAX, lambda: cluster.member.metric("ropewalk_tier_not_uploaded_seconds") or None)
    check_records(writer)
    check_bucket(cluster, TOPIC)
    return took


@pytest.mark.parametrize("status, code", [
    (503, "SlowDown"), (507, "XMinioStorageFull"), pytest.param(500, "InternalError", marks=pytest.mark.soak),
])
def test_a_bucket_that_answers_with_errors(cluster, note, status, code):
    writer = begin(cluster)
    rule = cluster.proxy.add(Refuse(status, code, PUT))
    in_trouble(cluster, writer, code, kind="unavailable")
    # A full bucket can be read.
    check_records(writer)
    cluster.proxy.remove(rule)
    note(f"{rule.used} puts were refused with {code}, uploads went on {is_over(cluster, writer):.1f} s after it")


def test_a_bucket_that_is_throttled_gets_everything(cluster, note):
    writer = begin(cluster)
    rule = Refuse(503, "SlowDown", "any", OBJECT, times=2)
    cluster.proxy.add(rule)
    for _ in range(4):
        writer.write(RECORDS)
        cluster.wait_until_uploaded(TOPIC)
        rule.left = 2
    check_records(writer)
    errors = sum(cluster.member.metrics("ropewalk_tier_errors_total").values())
    assert errors == 0, "single refusals are repeated at once"
    assert cluster.member.metric("ropewalk_tier_request_failures_total") > 0
    note(f"{rule.used} requests were refused")
    check_bucket(cluster, TOPIC)


def test_a_bucket_that_does_not_answer(cluster, note):
    writer = begin(cluster)
    rule = cluster.proxy.add(Silence(PUT))
    writer.write(RECORDS)
    rule.wait(SECONDS_MAX)
    began = time.monotonic()
    # The upload waits, and what needs no bucket does not.
    for _ in range(20):
        writer.write(100)
        time.sleep(0.1)
    check_records(writer)
    # What a loss of all brokers would lose grows, although the upload is not over.
    wait_for("the metric grows", SECONDS_MAX, lambda: (
        None if cluster.member.metric("ropewalk_tier_not_uploaded_seconds") else "it is 0"))
    cluster.proxy.remove(rule)
    note(f"silent for {time.monotonic() - began:.1f} s, uploads went on {is_over(cluster, writer):.1f} s after it")


@pytest.mark.soak
def test_a_bucket_that_does_not_answer_until_the_time_is_over(cluster, note):
    writer = begin(cluster)
    rule = cluster.proxy.add(Silence(PUT))
    writer.write(RECORDS)
    wait_for("the condition says it", 300, lambda: (
        None if "no answer in" in cluster.member.conditions().get("tier_failing", "") else "not yet"))
    check_records(writer)
    cluster.proxy.remove(rule)
    note(f"{rule.used} puts, then {is_over(cluster, writer, RECOVERY_S_MAX):.1f} s")


def test_a_bucket_that_is_gone_and_a_start_without_it(cluster, server, note):
    writer = begin(cluster)
    server.stop()
    in_trouble(cluster, writer, kind="unavailable")
    cluster.member.kill()
    began = time.monotonic()
    cluster.member.start()
    took = time.monotonic() - began
    writer.write(RECORDS)
    server.start()
    note(f"started in {took:.1f} s without the bucket, uploads went on after {is_over(cluster, writer):.1f} s")


def test_answers_that_are_cut_are_read_again(cluster):
    writer = begin(cluster)
    cluster.wait_until_moved(TOPIC)
    rule = cluster.proxy.add(Truncate(1000, GET, OBJECT, times=2))
    check_records(writer)
    assert rule.used == 2, "nothing was cut"
    check_bucket(cluster, TOPIC)


def test_answers_that_are_altered_are_never_passed_on(cluster, note):
    writer = begin(cluster)
    cluster.wait_until_moved(TOPIC)
    rule = cluster.proxy.add(Corrupt(GET, OBJECT))
    consumer = threading.Thread(target=check_records, args=(writer,), daemon=True)
    consumer.start()
    wait_for("some reads are altered", SECONDS_MAX, lambda: None if rule.used > 3 else f"{rule.used} reads")
    assert consumer.is_alive(), "the reader was done although each answer was altered"
    writer.write(100)
    cluster.proxy.remove(rule)
    consumer.join(SECONDS_MAX)
    check_records(writer)
    note(f"{rule.used} altered answers")
    check_bucket(cluster, TOPIC)


def test_a_put_whose_answer_is_lost_is_not_done_twice(cluster):
    writer = begin(cluster)
    before = len(objects(cluster))
    rule = cluster.proxy.add(DropAnswer(PUT, OBJECT, times=2))
    writer.write(RECORDS)
    cluster.wait_until_uploaded(TOPIC)
    assert rule.used == 2
    uploaded = cluster.member.metric("ropewalk_tier_uploaded_objects_total")
    assert len(objects(cluster)) == uploaded > before
    check_records(writer)
    check_bucket(cluster, TOPIC)


@pytest.mark.waits
def test_a_put_whose_answer_is_lost_and_whose_name_has_other_content(cluster):
    writer = begin(cluster)
    rule = cluster.proxy.add(Hold(PUT, OBJECT))
    writer.write(RECORDS)
    name = rule.wait(SECONDS_MAX).name.removeprefix(f"{cluster.prefix}/")
    bucket = cluster.bucket()
    bucket.put(name, b"something else")
    rule.release()

    def obstacle():
        errors = cluster.member.metrics("ropewalk_tier_errors_total")
        return None if any("other_content" in labels for labels in errors) else f"the errors are {errors}"

    wait_for("it is reported", SECONDS_MAX, obstacle)
    assert bucket.get(name) == b"something else", "an object was replaced"
    writer.write(100)
    check_records(writer)
    # The operator removes what does not belong there, and the same name can be used.
    bucket.delete(name)
    cluster.wait_until_uploaded(TOPIC, seconds_max=RECOVERY_S_MAX)
    check_records(writer)
    check_bucket(cluster, TOPIC)


def objects(cluster):
    bucket = cluster.bucket()
    found = [name for name in bucket.names() if name.endswith(".rwo")]
    bucket.close()
    return found


@pytest.mark.waits
def test_keys_that_end_midway(cluster, server, note):
    writer = begin(cluster)
    server.stop()
    server.secret = "another-secret-0123456789"
    server.start()
    in_trouble(cluster, writer, "Check the credentials", kind="denied")
    server.write_keys()
    note(f"uploads went on {is_over(cluster, writer, RECOVERY_S_MAX):.1f} s after the files had the new keys")


@pytest.mark.waits
def test_a_bucket_that_is_read_only(cluster, note):
    writer = begin(cluster)
    cluster.wait_until_moved(TOPIC)
    rule = cluster.proxy.add(Refuse(403, "AccessDenied", PUT))
    in_trouble(cluster, writer, "AccessDenied", "Check the credentials", kind="denied")
    # What is there is read.
    check_records(writer)
    cluster.proxy.remove(rule)
    note(f"uploads went on after {is_over(cluster, writer, RECOVERY_S_MAX):.1f} s")


def test_a_bucket_that_is_wiped_loses_what_only_it_had_and_nothing_else(cluster, note):
    writer = begin(cluster)
    cluster.wait_until_moved(TOPIC)
    border = cluster.offset(TOPIC, offsets.EARLIEST_LOCAL)
    bucket = cluster.bucket()
    saved = {name: bucket.get(name) for name in objects(cluster)}
    cluster.alter(TOPIC, {"remote.log.copy.disable": "true"})
    writer.write(RECORDS)
    cluster.member.kill()  # What it has in its cache.
    for name in saved:
        bucket.delete(name)
    cluster.member.start()
    writer.write(RECORDS)
    local = read(cluster, TOPIC, begin=border)
    assert [value for _, value in local] == [writer.acked[offset] for offset in range(border, writer.count)]
    # No reader gets past the hole without an error.
    with pytest.raises(AssertionError):
        read(cluster, TOPIC, begin=0, seconds_max=5)
    assert cluster.offset(TOPIC, offsets.EARLIEST) == 0
    for name, content in saved.items():
        bucket.put(name, content)
    cluster.alter(TOPIC, {"remote.log.copy.disable": "false"})
    cluster.wait_until_uploaded(TOPIC)
    check_records(writer)
    check_by_program(cluster)
    note(f"{len(saved)} objects were wiped and put back")


@pytest.mark.waits
@pytest.mark.skipif(not clock.is_possible(), reason="the clock of a process is set on x86-64 only")
def test_a_clock_that_jumps(cluster, note):
    writer = begin(cluster, COPIED)
    process = cluster.member.process
    clock.set_forward(process, 7200)
    in_trouble(cluster, writer, "clock", kind="unready")
    # A broker refuses records that are more than an hour ahead of it.
    clock.set_forward(process, -1800)
    writer.write(RECORDS)
    clock.set_forward(process, 0)
    took = is_over(cluster, writer, RECOVERY_S_MAX)
    note(f"uploads went on {took:.1f} s after the clock was right")


def test_a_slow_bucket_delays_no_acknowledgement(cluster, note):
    writer = begin(cluster)
    slow = cluster.proxy.add(Delay(0.5, "any"))
    times = []
    for _ in range(100):
        began = time.monotonic()
        writer.write(20)
        times.append(time.monotonic() - began)
    cluster.wait_until_uploaded(TOPIC)
    check_records(writer)
    note(f"{slow.used} requests of half a second; the slowest of 100 writes took {max(times) * 1000:.0f} ms")
    check_bucket(cluster, TOPIC)


def test_deletion_that_fails_half_way_is_repeated(cluster):
    writer = begin(cluster)
    writer.write(5 * RECORDS)
    cluster.wait_until_uploaded(TOPIC)
    ends = sorted(int(name.rpartition("/")[2].split("-")[1]) for name in objects(cluster))
    rule = cluster.proxy.add(Refuse(503, "SlowDown", "delete", times=6))
    cluster.delete_records(TOPIC, ends[2])
    wait_for("three objects are deleted", SECONDS_MAX, lambda: (
        None if len(objects(cluster)) == len(ends) - 3 else f"there are {len(objects(cluster))} of {len(ends)}"))
    assert rule.used == 6
    check_records(writer, ends[2])
    check_bucket(cluster, TOPIC)


def test_two_clusters_never_share_a_prefix(cluster, start_cluster):
    begin(cluster)
    other = start_cluster(cluster_id="another", wait=False)
    assert other.member.ended(SECONDS_MAX) == WRONG_SETTINGS, other.member.log()
    assert "belongs to cluster ropewalk-tests" in other.member.log()
    check_bucket(cluster, TOPIC)
