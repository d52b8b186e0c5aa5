"""The checker finds each anomaly in a history that holds it, and none in a sound one."""

import random
import tempfile
import unittest
from pathlib import Path

import checker
import history as histories
from history import FAIL, INFO, OK, History, Recorder, read

PARTITIONS = ("orders/0", "orders/1")


class Clients:
    """A sound history of several clients against a log that keeps its promises, from a seed."""

    def __init__(self, seed):
        self.random, self.clock, self.history = random.Random(seed), 0, History()
        self.log = {partition: [] for partition in PARTITIONS}
        self.values = 0
        self.positions = {name: {} for name in ("c1", "c2")}
        self.committed = {}
        for _ in range(self.random.randrange(50, 200)):
            self.random.choice([self.send, self.send, self.poll, self.assign, self.commit])()
        self.read_all()

    def tick(self):
        self.clock += self.random.randrange(1, 9)
        return self.clock

    def add(self, op, process, **fields):
        self.history.add({"op": op, "process": process, "began": self.tick(), "ended": self.tick(), **fields})

    def send(self):
        partition, process = self.random.choice(PARTITIONS), self.random.choice(["p1", "p2", "p3"])
        self.values += 1
        value, outcome = f"v{self.values}", self.random.choice([OK, OK, OK, FAIL, INFO])
        fields = {"partition": partition, "value": value, "outcome": outcome}
        if outcome == OK or outcome == INFO and self.random.random() < 0.5:
            self.log[partition].append(value)
        if outcome == OK:
            fields["offset"] = len(self.log[partition]) - 1
        self.add("send", process, **fields)

    def assign(self):
        process = self.random.choice(list(self.positions))
        partitions = self.random.sample(PARTITIONS, self.random.randrange(1, 3))
        self.positions[process] = {p: self.random.randrange(len(self.log[p]) + 1) for p in partitions}
        self.add("assign", process, how="subscribe", partitions=partitions)

    def poll(self):
        process = self.random.choice(list(self.positions))
        records = []
        for partition, at in self.positions[process].items():
            taken = self.log[partition][at:at + self.random.randrange(4)]
            records += [[partition, at + i, value] for i, value in enumerate(taken)]
            self.positions[process][partition] = at + len(taken)
        self.add("poll", process, records=records)

    def commit(self):
        partition, outcome = self.random.choice(PARTITIONS), self.random.choice([OK, OK, INFO, FAIL])
        offset = self.random.randrange(len(self.log[partition]) + 1)
        if outcome == OK or outcome == INFO and self.random.random() < 0.5:
            self.committed[partition] = offset
        self.add("commit", "c1", group="g", offsets={partition: offset}, outcome=outcome)

    def read_all(self):
        self.add("assign", "last", how="assign", partitions=list(PARTITIONS))
        records = [[partition, at, value] for partition, log in self.log.items() for at, value in enumerate(log)]
        self.add("poll", "last", records=records)
        self.add("committed", "last", group="g", offsets=dict(self.committed))


def send(value, offset=None, partition="t/0", process="p", began=0, ended=None, outcome=OK):
    line = {"op": "send", "process": process, "began": began, "ended": began + 1 if ended is None else ended}
    line |= {"partition": partition, "value": value, "outcome": outcome}
    return line | ({"offset": offset} if offset is not None else {})


def poll(*records, process="c"):
    records = [["t/0", *record] for record in records]
    return {"op": "poll", "process": process, "began": 0, "ended": 0, "records": records}


def assign(process="c"):
    return {"op": "assign", "process": process, "began": 0, "ended": 0, "how": "assign", "partitions": ["t/0"]}


def commit(offset, began, outcome=OK):
    line = {"op": "commit", "process": "c", "began": began, "ended": began + 1}
    return {**line, "group": "g", "offsets": {"t/0": offset}, "outcome": outcome}


def committed(offset):
    return {"op": "committed", "process": "c", "began": 99, "ended": 99, "group": "g", "offsets": {"t/0": offset}}


def kinds(*lines):
    history = History()
    for line in lines:
        history.add(line)
    return sorted({anomaly.kind for anomaly in checker.check(history)})


class Recording(unittest.TestCase):
    def test_progress_of_each_partition_is_visible_at_once(self):
        progress = [0, 0, 0, 0]
        with tempfile.TemporaryDirectory() as scratch, Recorder(Path(scratch, "p.history"), "p", progress) as recorder:
            recorder.write("send", 5, partition="t/2", value="a", outcome=OK, offset=0)
            recorder.write("send", 6, partition="t/1", value="b", outcome=INFO)
            recorder.write("poll", 7, records=[["t/3", 0, "c"], ["t/3", 1, "d"]])
            recorder.write("poll", 8, records=[])
        self.assertEqual([0, 0, 5, 7], progress)


class Anomalies(unittest.TestCase):
    def test_sound_histories_hold_none(self):
        for seed in range(300):
            with self.subTest(seed=seed):
                self.assertEqual([], checker.check(Clients(seed).history))

    def test_each_anomaly_put_into_a_sound_history_is_found(self):
        """The other clients' operations hide none."""
        put_in = {
            "lost-write": [send("w", 0), send("x", 1, began=5), send("y", 2, began=9), poll((0, "w"), (2, "y"))],
            "duplicate": [send("x", 0), poll((0, "x"), (1, "x"))],
            "inconsistent-offset": [send("x", 0), send("y", outcome=INFO), poll((0, "y"))],
        }
        for kind, lines in put_in.items():
            for seed in range(20):
                with self.subTest(kind=kind, seed=seed):
                    history = Clients(seed).history
                    for line in lines:
                        history.add(line)
                    self.assertIn(kind, {anomaly.kind for anomaly in checker.check(history)})

    def test_failed_send_seen(self):
        self.assertEqual(["failed-send-seen"], kinds(send("x", outcome=FAIL), poll((0, "x"))))
        self.assertEqual([], kinds(send("x", outcome=INFO), poll((0, "x"))))

    def test_a_possibly_persisted_record_is_there_once_or_not_at_all(self):
        given_up = {**send("x", outcome=INFO), "possibly_persisted": True}
        other = send("y", 1, began=5)
        self.assertEqual([], kinds(given_up, send("y", 0, began=5), poll((0, "y"))))
        self.assertEqual([], kinds(given_up, other, poll((0, "x"), (1, "y"))))
        self.assertEqual(["duplicate"], kinds(given_up, other, poll((0, "x"), (1, "y"), (2, "x"))))

    def test_never_sent(self):
        self.assertEqual(["never-sent"], kinds(send("x", 0), poll((0, "x"), (1, "y"))))

    def test_inconsistent_offset_also_between_an_answer_and_a_read(self):
        self.assertEqual(["inconsistent-offset"], kinds(send("x", 0), send("y", outcome=INFO), poll((0, "y"))))

    def test_duplicate_also_between_an_answer_and_a_read(self):
        self.assertEqual(["duplicate", "unseen"], kinds(send("x", 1), poll((0, "x"))))

    def test_a_duplicate_says_why_its_producer_began_a_new_epoch(self):
        history = History()
        epochs = [{"op": "epoch", "process": process, "began": at, "ended": at, "why": why}
                  for process, at, why in [("p", 4, "skipped"), ("p", 20, "later"), ("q", 4, "another")]]
        for line in [send("x", 1, ended=9), poll((0, "x"), (1, "x")), *epochs]:
            history.add(line)
        (anomaly,) = checker.check(history)
        self.assertEqual("duplicate: 'x' in t/0 at 0 and at 1; p began a new epoch meanwhile: skipped", str(anomaly))

    def test_lost_write(self):
        lines = [send("x", 0), send("y", 1, began=5), send("z", 2, began=9)]
        self.assertEqual(["lost-write", "offset-gap", "poll-skipped"], kinds(*lines, poll((0, "x"), (2, "z"))))

    def test_a_record_that_was_acknowledged_without_an_offset_is_where_it_was_read(self):
        self.assertEqual([], kinds(send("x", None), send("y", 1, began=5), poll((0, "x"), (1, "y"))))
        self.assertEqual(["duplicate"], kinds(send("x", None), poll((0, "x"), (1, "x"))))
        self.assertEqual(["lost-write"], kinds(send("x", None), send("y", 0, began=5), poll((0, "y"))))

    def test_unseen(self):
        self.assertEqual(["unseen"], kinds(send("x", 0), send("y", 1, began=5), poll((0, "x"))))

    def test_offset_gap(self):
        self.assertEqual(["offset-gap"], kinds(send("x", 0), send("z", 2, began=5), poll((0, "x"), (2, "z"))))

    def test_poll_went_back(self):
        sent = [send("x", 0), send("y", 1, began=5)]
        self.assertEqual(["poll-went-back"], kinds(*sent, poll((0, "x"), (1, "y")), poll((0, "x"))))
        self.assertEqual(["poll-went-back"], kinds(*sent, poll((0, "x"), (1, "y")), poll((1, "y"))))
        self.assertEqual([], kinds(*sent, poll((0, "x"), (1, "y")), assign(), poll((0, "x"))))

    def test_poll_skipped(self):
        sent = [send("x", 0), send("y", 1, began=5), send("z", 2, began=9)]
        all_of_it = poll((0, "x"), (1, "y"), (2, "z"), process="other")
        self.assertEqual(["poll-skipped"], kinds(*sent, all_of_it, poll((0, "x")), poll((2, "z"))))
        self.assertEqual([], kinds(*sent, all_of_it, poll((0, "x")), assign(), poll((2, "z"))))

    def test_sends_reordered(self):
        lines = [send("x", 1, began=0, ended=20), send("y", 0, began=5, ended=9)]
        self.assertEqual(["sends-reordered"], kinds(*lines, poll((0, "y"), (1, "x"))))

    def test_sent_before(self):
        read_it = poll((0, "y"), (1, "x"))
        lines = [send("x", 1, began=0, ended=4), send("y", 0, began=5, ended=9, process="q")]
        self.assertEqual(["sent-before"], kinds(*lines, read_it))
        at_the_same_time = [send("x", 1, began=0, ended=6), send("y", 0, began=5, ended=9, process="q")]
        self.assertEqual([], kinds(*at_the_same_time, read_it))

    def test_commit_lost(self):
        self.assertEqual(["commit-lost"], kinds(commit(5, began=1), commit(8, began=3), committed(5)))
        self.assertEqual([], kinds(commit(5, began=1), commit(8, began=3), committed(8)))

    def test_a_commit_of_unknown_outcome_may_be_applied_late(self):
        self.assertEqual([], kinds(commit(9, began=1, outcome=INFO), commit(8, began=3), committed(9)))
        self.assertEqual(["commit-lost"], kinds(commit(9, began=1, outcome=FAIL), commit(8, began=3), committed(9)))
        self.assertEqual(["commit-lost"], kinds(commit(8, began=1), commit(9, began=3, outcome=FAIL), committed(9)))

    def test_two_sends_of_one_value_are_refused(self):
        with self.assertRaisesRegex(ValueError, "same value"):
            kinds(send("x", 0), send("x", 1), poll((0, "x")))


class Pauses(unittest.TestCase):
    def test_each_event_has_the_longest_wait_of_any_partition_until_the_next_event(self):
        history = History()
        for at in (0, 1, 5, 6, 7):
            history.add(send(f"a{at}", at, ended=int(at * 1e9)))
        for at in (0, 1, 2, 3, 4, 5, 6, 9):
            history.add(send(f"b{at}", at, partition="t/1", ended=int(at * 1e9)))
        # The first two share a wait of the first partition, and the third is in one of the second.
        events = [int(2e9), int(3.5e9), int(6.5e9), int(20e9)]
        self.assertEqual([1.5, 1.5, 2.5, 0.0], list(checker.pauses(history, events)))

    def test_a_client_that_waits_is_seen_while_others_go_on(self):
        second = 1_000_000_000
        history = History()
        for at in range(8):
            history.add(send(f"a{at}", at, ended=at * second, process="a"))
            if at in (0, 1, 6, 7):
                history.add(send(f"b{at}", 8 + at, ended=at * second, process="b"))
                history.add({**poll((at, f"a{at}"), (8 + at, f"b{at}")), "ended": at * second})
        self.assertEqual([1.0], list(checker.pauses(history, [second])))
        self.assertEqual({"a": [1.0], "b": [5.0], "c": [5.0]}, checker.pauses_of_clients(history, [second]))


class Files(unittest.TestCase):
    def test_what_is_recorded_is_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "p.history"
            with Recorder(path, "p") as recorder:
                recorder.write("send", histories.now(), partition="t/0", value="x", outcome=OK, offset=0)
                recorder.write("poll", histories.now(), records=[["t/0", 0, "x"]])
            history = read(path)
            self.assertEqual([], checker.check(history))
            self.assertEqual(1, len(history.sends))
            self.assertGreaterEqual(history.sends[0]["ended"], history.sends[0]["began"])

    def test_a_torn_line_is_refused_by_its_number(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "p.history"
            path.write_text('{"op": "poll", "process": "c", "records": []}\n{"op": "se')
            with self.assertRaisesRegex(ValueError, "line 2"):
                read(path)


if __name__ == "__main__":
    unittest.main()
