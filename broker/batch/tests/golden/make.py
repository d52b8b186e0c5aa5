"""Writes kafka-python.txt: batches as a real client makes them, one a line, name and hex.

    pip install kafka-python==3.0.12 python-snappy lz4 zstandard
    python make.py > kafka-python.txt
"""

from kafka import codec
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatchBuilder

BASE_MS = 1_700_000_000_000
SMALL = [
    (0, BASE_MS, b"key-0", b"value-0", []),
    (1, BASE_MS + 250, None, b"no key", []),
    (2, BASE_MS - 3, b"tombstone", None, []),
    (3, BASE_MS + 7, b"", b"", [("h", b"1"), ("h", b"2"), ("", None), ("\u00e9", b"")]),
]
LARGE = (4, BASE_MS + 1, b"large", b"ropewalk " * 8000, [])


def batch(compression, large, producer=(-1, -1, -1), transactional=False):
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=compression, is_transactional=transactional,
        producer_id=producer[0], producer_epoch=producer[1], base_sequence=producer[2],
        batch_size=1 << 20)
    for record in SMALL + ([LARGE] if large else []):
        assert builder.append(*record) is not None
    return bytes(builder.build()).hex()


print("none", batch(0, False))
print("none-transactional", batch(0, False, (4711, 3, 2147483646), True))
print("gzip", batch(1, True))
print("snappy-framed", batch(2, True))
default_records.snappy_encode = lambda payload: codec.snappy_encode(payload, xerial_compatible=False)
print("snappy-raw", batch(2, True))
print("lz4", batch(3, True))
print("zstd", batch(4, True))
