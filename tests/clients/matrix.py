"""The client matrix: each client writes, and all others must read the same records.

    matrix.py HOST:PORT COMMANDS      COMMANDS: a JSON object from a client's name to its command

Every client writes one topic per compression, into three partitions: nulls, empties, every byte, repeated
headers, timestamps out of order, a large value, and two hundred small records; and one more topic with a null
header, which not all clients can read. Then every client reads every topic (in a consumer group, if it supports
groups), and its records are compared with the orders: contents, offsets, timestamps and headers. CANNOT_WRITE
lists what a client cannot write, CANNOT_READ what it cannot report; these are not compared.
"""

import base64
import collections
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

PARTITIONS = 3
SECONDS_MAX = 150
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]

NULL_HEADER = "null-header"
KINDS = [*COMPRESSIONS, NULL_HEADER]

# What a client cannot express, or fails at. Each case was reproduced with Apache Kafka 4.3.1.
CANNOT_WRITE = {
    "kafka-python": {"null header"},
    "kafkajs": {"null header"},
    "kcat": {"timestamp", "binary", "empty header"},
    "rskafka": {"repeated header", "null header"},
}
CANNOT_READ = {
    "kafka-go": {"empty"},  # It does not distinguish null from empty.
    "kafkajs": {"null header"},
    "rskafka": {"repeated header", "null header"},  # Headers are a sorted map.
}


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def record(partition, key, value, headers=()):
    pairs = [[name, b64(content)] for name, content in headers]
    return {"partition": partition, "key": b64(key), "value": b64(value), "headers": pairs}


def records_for(client, start_ms):
    """The orders for `client`: everything that it can express."""
    cannot = CANNOT_WRITE.get(client, set())
    headers = [("a", b"1"), ("b", b"2")]
    if "repeated header" not in cannot:
        headers.insert(1, ("a", b"3"))
    if "empty header" not in cannot:
        headers.append(("empty", b""))
    every_byte = b"text" if "binary" in cannot else bytes(range(256))
    records = [
        record(0, b"key", b"value"),
        record(0, b"", b""),
        record(0, every_byte, every_byte * 3),
        record(0, "Schlüssel".encode(), "Wörter, 言葉".encode()),
        record(0, None, b"null key"),
        record(0, b"tombstone", None),
        record(0, b"with headers", b"value", headers),
        record(1, b"large", b"0123456789abcdef" * 6400),
    ]
    records += [record(2, b"%d" % i, b"small record %d " % i * 5) for i in range(200)]
    for i, r in enumerate(records):
        # Every fifth is earlier than the one before it.
        r["timestamp"] = start_ms + i * 1000 - (7500 if i % 5 == 4 else 0)
    return records


def null_header_records(start_ms):
    return [dict(record(0, b"key", b"value", [("null", None), ("b", b"2")]), timestamp=start_ms)]


def kinds_of(writer):
    return COMPRESSIONS if "null header" in CANNOT_WRITE.get(writer, ()) else KINDS


def can_read(reader, kind):
    return kind != NULL_HEADER or "null header" not in CANNOT_READ.get(reader, ())


def topic_of(client, kind):
    return f"from-{client}-{kind}"


def run(command, verb, orders):
    ended = subprocess.run(
        [*command, verb], input=json.dumps(orders), capture_output=True, text=True, timeout=SECONDS_MAX
    )
    if ended.returncode:
        raise RuntimeError(f"ended with {ended.returncode}: {ended.stderr.strip()[-600:]}")
    return ended.stdout


def attempt(action, *arguments):
    """The outcome and what went wrong."""
    started = time.monotonic()
    try:
        outcome, wrong = action(*arguments), None
    except subprocess.TimeoutExpired as slow:
        outcome, wrong = None, f"not done after {SECONDS_MAX} s: {(slow.stderr or b'').decode().strip()[-400:]}"
    except (RuntimeError, ValueError) as error:
        outcome, wrong = None, str(error)
    return outcome, wrong, time.monotonic() - started


def expected_of(writer, kind, records, written_ms):
    """The records that any reader must report, by (topic, partition), in order of offsets."""
    expected = collections.defaultdict(list)
    for r in records:
        partition = expected[topic_of(writer, kind), r["partition"]]
        shown = dict(r, offset=len(partition))
        if "timestamp" in CANNOT_WRITE.get(writer, ()):
            shown["timestamp"] = written_ms  # A span: when it was written.
        partition.append(shown)
    return expected


def as_shown(reader, field, content):
    """`content` as `reader` can show it."""
    cannot = CANNOT_READ.get(reader, ())
    if field in ("key", "value") and "empty" in cannot:
        return content or None
    if field == "headers" and "empty" in cannot:
        return [[name, value or None] for name, value in content]
    if field == "headers" and "repeated header" in cannot:
        return sorted(dict(map(tuple, content)).items())
    return content


def differences(reader, expected, found):
    """The differences in the records of `reader`, as text; nothing if all are equal."""
    for (topic, partition), records in expected.items():
        seen = found.get((topic, partition), [])
        if len(seen) != len(records):
            return f"{topic} [{partition}]: {len(seen)} records instead of {len(records)}"
        for want, got in zip(records, seen):
            where = f"{topic} [{partition}] at {want['offset']}"
            for field in ("offset", "key", "value", "headers"):
                wanted, given = as_shown(reader, field, want[field]), as_shown(reader, field, got[field])
                if wanted != given:
                    return f"{where}: {field} is {str(given)[:90]}, not {str(wanted)[:90]}"
            earliest, latest = want["timestamp"] if isinstance(want["timestamp"], tuple) else [want["timestamp"]] * 2
            if not earliest <= got["timestamp"] <= latest:
                return f"{where}: timestamp is {got['timestamp']}, not {want['timestamp']}"
    return None


def write_all(writer, command, bootstrap):
    """The records that any reader must find, by kind; nothing if the client failed."""
    start_ms = int(time.time() * 1000) - 3_600_000
    records = {kind: records_for(writer, start_ms) for kind in COMPRESSIONS}
    records[NULL_HEADER] = null_header_records(start_ms)
    orders = [
        {"topic": topic_of(writer, kind), "compression": "none" if kind == NULL_HEADER else kind, "records": records[kind]}
        for kind in kinds_of(writer)
    ]
    before_ms = int(time.time() * 1000) - 1000
    _, wrong, seconds = attempt(run, command, "write", {"bootstrap": bootstrap, "topics": orders})
    span = (before_ms, int(time.time() * 1000) + 1000)
    print(f"{writer:<14} writes: {wrong or 'ok'} ({seconds:.1f} s)", flush=True)
    if wrong is not None:
        return {}, wrong
    return {(writer, kind): expected_of(writer, kind, records[kind], span) for kind in kinds_of(writer)}, None


def read_all(reader, command, bootstrap, expected):
    partitions = [
        {"topic": topic, "partition": partition, "count": len(records)}
        for of_topic in expected.values()
        for (topic, partition), records in of_topic.items()
    ]
    orders = {"bootstrap": bootstrap, "group": f"readers-{reader}", "partitions": partitions}
    found = collections.defaultdict(list)
    for line in run(command, "read", orders).splitlines():
        r = json.loads(line)
        found[r["topic"], r["partition"]].append(r)
    return found


def main():
    bootstrap, commands = sys.argv[1], json.loads(sys.argv[2])
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic_of(c, k), PARTITIONS, 1) for c in commands for k in kinds_of(c)])
    admin.close()

    failures, expected = [], {}
    for writer, command in commands.items():
        of_writer, wrong = write_all(writer, command, bootstrap)
        expected.update(of_writer)
        if wrong is not None:
            failures.append(f"{writer} cannot write: {wrong}")

    def reading(reader):
        of_reader = {(w, k): e for (w, k), e in expected.items() if can_read(reader, k)}
        found, wrong, seconds = attempt(read_all, reader, commands[reader], bootstrap, of_reader)
        print(f"{reader:<14} reads: {wrong or 'ok'} ({seconds:.1f} s)", flush=True)
        return reader, of_reader, found, wrong

    cells = {}
    with ThreadPoolExecutor(2) as pool:
        for reader, of_reader, found, wrong in pool.map(reading, commands):
            if wrong:
                failures.append(f"{reader} cannot read: {wrong}")
            for (writer, kind), wanted in of_reader.items():
                said = wrong or differences(reader, wanted, found)
                cells.setdefault((writer, reader), []).append(said)
                if said and not wrong:
                    failures.append(f"{writer} -> {reader}, {kind}: {said}")

    print_table(list(commands), cells)
    for failure in failures[:30]:
        print(f"FAILED: {failure}")
    if len(failures) > 30:
        print(f"and {len(failures) - 30} more")
    good = sum(said is None for cell in cells.values() for said in cell)
    total = sum(can_read(reader, kind) for reader in commands for w in commands for kind in kinds_of(w))
    print(f"client matrix: {good} of {total} (writer, reader, kind) equal")
    sys.exit(0 if good == total and not failures else 1)


def print_table(clients, cells):
    """Rows write, columns read; a cell counts the topics with equal records."""
    print(f"\n{'writes / reads':<14}" + "".join(f"{c[:10]:>11}" for c in clients))
    for writer in clients:
        row = [cells.get((writer, reader)) for reader in clients]
        marks = ["-" if cell is None else f"{sum(s is None for s in cell)}/{len(cell)}" for cell in row]
        print(f"{writer:<14}" + "".join(f"{mark:>11}" for mark in marks))
    print()


if __name__ == "__main__":
    main()
