"""kcat in the client matrix; records.py describes the orders.

kcat takes keys and values from files and gives all records of one run the same headers, nulls and
partition, so records that share these are sent in one run. It cannot set timestamps.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from records import Outstanding, decoded, headers_of, orders, show

# Delimiters of records and of key and value: byte sequences that no record of the matrix contains.
RECORD_END, KEY_END = "<<end of record>>", "<<end of key>>"


def run_shape(record):
    """The attributes that are the same for all records of one run of kcat."""
    has_null = record["key"] is None or record["value"] is None
    return record["partition"], tuple((n, v) for n, v in record["headers"]), has_null


def write(order):
    for topic in order["topics"]:
        for (partition, headers, has_null), records in itertools.groupby(topic["records"], run_shape):
            command = ["kcat", "-P", "-b", order["bootstrap"], "-t", topic["topic"], "-p", str(partition)]
            command += ["-z", topic["compression"], "-X", "acks=all", "-D", RECORD_END, "-K", KEY_END]
            for name, value in headers_of({"headers": headers}):
                command += ["-H", name if value is None else f"{name}={value.decode()}"]
            if has_null:
                command.append("-Z")  # Empty means null.
            lines = [
                (decoded(r["key"]) or b"") + KEY_END.encode() + (decoded(r["value"]) or b"") + RECORD_END.encode()
                for r in records
            ]
            subprocess.run(command, input=b"".join(lines), check=True)


# All fields of fixed length first, then the bytes, whose lengths are then known.
FORMAT = "%t %p %o %T %K %S %h\n%k%s\n"


def read(order):
    left = Outstanding(order["partitions"])
    command = ["kcat", "-b", order["bootstrap"], "-f", FORMAT, "-X", "auto.offset.reset=earliest", "-u", "-q"]
    command += ["-G", order["group"], *left.topics()]
    with tempfile.TemporaryDirectory() as directory:
        errors = Path(directory, "errors").open("w+")
        kcat = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        while left:
            line = kcat.stdout.readline()
            if not line:
                errors.seek(0)
                sys.exit(f"kcat ended: {errors.read()}")
            topic, partition, offset, timestamp, key_size, value_size, headers = (
                line.decode().rstrip("\n").split(" ", 6)
            )
            key = taken(kcat.stdout, int(key_size))
            value = taken(kcat.stdout, int(value_size))
            kcat.stdout.read(1)
            names = [h.split("=", 1) for h in headers.split(",")] if headers else []
            pairs = [(n, None if v == "NULL" else v.encode()) for n, v in names]
            show(topic, int(partition), int(offset), int(timestamp), key, value, pairs)
            left.seen(topic, int(partition))
        kcat.terminate()
        kcat.wait()


def taken(stream, size):
    """A size of -1 is a null."""
    return None if size < 0 else stream.read(size)


{"write": write, "read": read}[sys.argv[1]](orders())
