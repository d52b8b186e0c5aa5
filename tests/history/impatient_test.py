"""The writer that gives records up, against brokers that do not exist. tests/cluster/run runs these, because they need its
clients."""

import unittest

import impatient
from history import FAIL, INFO, OK


class GivenUp(unittest.TestCase):
    def test_what_librdkafka_is_certain_of_decides(self):
        timed_out = -192
        self.assertEqual({"outcome": OK, "offset": 7}, impatient.outcome_of(0, impatient.PERSISTED, 7))
        self.assertEqual({"outcome": OK, "offset": None}, impatient.outcome_of(0, impatient.PERSISTED, -1))
        self.assertEqual({"outcome": FAIL}, impatient.outcome_of(timed_out, impatient.NOT_PERSISTED, -1))
        self.assertEqual({"outcome": INFO, "possibly_persisted": True},
                         impatient.outcome_of(timed_out, impatient.POSSIBLY_PERSISTED, -1))

    def test_a_record_that_no_broker_takes_is_given_up_with_its_status(self):
        answers = []
        settings = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 10, "log_level": 0}
        producer = impatient.Producer(settings, "t", lambda *answer: answers.append(answer))
        self.assertTrue(producer.produce(0, "x"))
        producer.flush(10)
        [(value, error, status, _)] = answers
        self.assertEqual(("x", impatient.NOT_PERSISTED), (value, status))
        self.assertNotEqual(0, error)

    def test_a_setting_that_does_not_exist_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no.such.setting"):
            impatient.Producer({"no.such.setting": 1}, "t", print)


if __name__ == "__main__":
    unittest.main()
