"""An idempotent writer of librdkafka that gives a record up soon, and records how certain librdkafka is that it
was not written: confluent-kafka does not pass that status on, so its librdkafka is called here.

| status of a record that was given up | outcome | what the checker demands |
|---|---|---|
| NOT_PERSISTED | fail | it is nowhere |
| POSSIBLY_PERSISTED | info, with `possibly_persisted` | it is at one offset or at none |

librdkafka begins a new producer epoch after it has given a record up, and sends what else is on its way again in the new
epoch: no broker can recognize that. Therefore each partition has a producer of its own, with one record on its way.
"""

import ctypes
import pathlib
import sys
import time

import confluent_kafka
from clients import LAST_ANSWERS_S, Pace, named
from history import FAIL, INFO, OK, Recorder, now

# Shorter than an election and than the shortest stop of a broker: it may still write what was given up meanwhile.
PATIENCE_MS = 500
PRODUCER, COPY, QUEUE_FULL = 0, 2, -184
NOT_PERSISTED, POSSIBLY_PERSISTED, PERSISTED = range(3)
TEXT_BYTES = 512


class Message(ctypes.Structure):
    """rd_kafka_message_t"""

    _fields_ = [("error", ctypes.c_int), ("topic", ctypes.c_void_p), ("partition", ctypes.c_int32),
                ("value", ctypes.c_void_p), ("size", ctypes.c_size_t), ("key", ctypes.c_void_p),
                ("key_size", ctypes.c_size_t), ("offset", ctypes.c_int64), ("private", ctypes.c_void_p)]


ANSWERED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(Message), ctypes.c_void_p)
POINTER, TEXT, INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
# Function -> its result and its arguments.
FUNCTIONS = {
    "conf_new": (POINTER, []),
    "conf_set": (INT, [POINTER, TEXT, TEXT, TEXT, ctypes.c_size_t]),
    "conf_set_dr_msg_cb": (None, [POINTER, ANSWERED]),
    "new": (POINTER, [INT, POINTER, TEXT, ctypes.c_size_t]),
    "topic_new": (POINTER, [POINTER, TEXT, POINTER]),
    "produce": (INT, [POINTER, ctypes.c_int32, INT, TEXT, ctypes.c_size_t, TEXT, ctypes.c_size_t, POINTER]),
    "last_error": (INT, []),
    "err2str": (TEXT, [INT]),
    "poll": (INT, [POINTER, INT]),
    "flush": (INT, [POINTER, INT]),
    "message_status": (INT, [ctypes.POINTER(Message)]),
}


def library():
    folder = pathlib.Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (file,) = folder.glob("librdkafka-*.so*")
    loaded, functions = ctypes.CDLL(str(file)), {}
    for name, (result, arguments) in FUNCTIONS.items():
        functions[name] = function = getattr(loaded, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return functions


def outcome_of(error, status, offset):
    """What a history says of a record with this answer."""
    if not error:
        # The offset is unknown if the answer was lost and a later one shows that the record is there.
        return {"outcome": OK, "offset": offset if offset >= 0 else None}
    if status == NOT_PERSISTED:
        return {"outcome": FAIL}
    return {"outcome": INFO, "possibly_persisted": True}


class Producer:
    """`answered` is called with a record's value, error, status and offset."""

    def __init__(self, settings, topic, answered):
        self.call = library()
        text = ctypes.create_string_buffer(TEXT_BYTES)
        conf = self.call["conf_new"]()
        for key, value in settings.items():
            if self.call["conf_set"](conf, key.encode(), str(value).encode(), text, TEXT_BYTES):
                raise ValueError(text.value.decode())

        def pass_on(_, message, __):
            record = message.contents
            value = ctypes.string_at(record.value, record.size).decode()
            answered(value, record.error, self.call["message_status"](message), record.offset)

        # As long as the producer lives, so must this.
        self.pass_on = ANSWERED(pass_on)
        self.call["conf_set_dr_msg_cb"](conf, self.pass_on)
        self.handle = self.call["new"](PRODUCER, conf, text, TEXT_BYTES)
        if not self.handle:
            raise ValueError(text.value.decode())
        self.topic = self.call["topic_new"](self.handle, topic.encode(), None)

    def produce(self, partition, value):
        """Whether there was room for it."""
        data = value.encode()
        if self.call["produce"](self.topic, partition, COPY, data, len(data), None, 0, None) == 0:
            return True
        error = self.call["last_error"]()
        if error != QUEUE_FULL:
            raise RuntimeError(f"{value} was not taken: {self.call['err2str'](error).decode()}")
        return False

    def poll(self, seconds):
        self.call["poll"](self.handle, round(seconds * 1000))

    def flush(self, seconds):
        self.call["flush"](self.handle, round(seconds * 1000))


def write_impatiently(bootstrap, topic, partitions, name, path, stop, pace=Pace(50, 0.002), progress=None):
    settings = {
        "bootstrap.servers": bootstrap, "enable.idempotence": "true", "linger.ms": 0, "message.timeout.ms": PATIENCE_MS,
        "log_level": 0, "reconnect.backoff.max.ms": 200, "queue.buffering.max.messages": 2000,
        "max.in.flight": 1, "batch.num.messages": 1,
    }
    with Recorder(path, name, progress) as recorder:
        unanswered = {}

        def answered(value, error, status, offset):
            partition, began = unanswered.pop(value)
            recorder.write("send", began, partition=named(topic, partition), value=value, **outcome_of(error, status, offset))

        producers, sequence = [Producer(settings, topic, answered) for _ in range(partitions)], 0
        while not stop.is_set():
            value, partition = f"{name}:{sequence}", sequence % partitions
            unanswered[value] = (partition, now())
            if producers[partition].produce(partition, value):
                sequence += 1
            else:
                del unanswered[value]
                producers[partition].poll(0.05)
            producers[partition].poll(0)
            if sequence % pace.records == 0:
                time.sleep(pace.rest_s)
        for producer in producers:
            producer.flush(LAST_ANSWERS_S)
        if unanswered:
            sys.exit(f"{name}: {len(unanswered)} records had no answer {LAST_ANSWERS_S} s after the end of the load")
