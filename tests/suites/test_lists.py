"""Tests of lists.py and verdict.py: a failed run is reported, and a missing row is detected."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lists import UNSTEADY_MAX, gone, parse, read
from verdict import read_results, row_of, verdict

LIST = """
# A comment.
must
must/part[a-b]
excused* | does not apply
~ unsteady | some-client | 97 of 100 | it asks too early
"""


def outcome(results, rows=LIST):
    lines, holds = verdict(parse(rows), read_results("must/part[a-b]\tpassed\n" + results))
    return holds, "\n".join(lines)


class Verdict(unittest.TestCase):
    def check(self, results, holds, *words):
        held, text = outcome(results)
        self.assertEqual(held, holds, text)
        for word in words:
            self.assertIn(word, text)

    def test_all_that_must_pass_does(self):
        self.check("must\tpassed\nunsteady\tpassed\n", True, "3 passed, 0 failed, 1 not applicable")

    def test_a_failure_is_red_though_it_passes_later(self):
        self.check("must\tfailed\tbroken\nmust\tpassed\nunsteady\tpassed\n", False, "FAILED: must: failed: broken")

    def test_a_skip_of_what_must_pass_is_red(self):
        self.check("must\tskipped\tnot today\nunsteady\tpassed\n", False, "FAILED: must: skipped: not today")

    def test_what_was_not_run_is_red(self):
        self.check("unsteady\tpassed\n", False, "FAILED: must: was not run")
        self.check("must\tpassed\n", False, "FAILED: unsteady: was not run")

    def test_what_has_no_row_is_red(self):
        for state in ("passed", "failed", "skipped"):
            self.check(f"must\tpassed\nunsteady\tpassed\nother\t{state}\n", False, "FAILED: other: ")

    def test_what_is_excused_may_fail_and_is_news_when_it_passes(self):
        self.check("must\tpassed\nunsteady\tpassed\nexcused1\tfailed\n", True, "not applicable: excused1: does not apply")
        self.check("must\tpassed\nunsteady\tpassed\nexcused1\tpassed\n", True, "news: excused1: ")

    def test_an_unsteady_one_has_a_second_try_which_is_named(self):
        self.check(
            "must\tpassed\nunsteady\tfailed\tearly\nunsteady\tpassed\n", True,
            "passed at try 2: unsteady: it asks too early (some-client; passed 97 of 100): at first: early",
            "3 passed (1 at try 2), 0 failed",
        )  # fmt: skip
        self.check("must\tpassed\nunsteady\tfailed\nunsteady\tfailed\n", False, "FAILED: unsteady")
        self.check("must\tpassed\nunsteady\tfailed\n", False, "FAILED: unsteady")

    def test_a_run_of_some_tests_needs_no_result_of_others(self):
        with tempfile.TemporaryDirectory() as directory:
            listed, results = Path(directory, "list.txt"), Path(directory, "results")
            listed.write_text("a1\na2\nb1\n")
            results.write_text("a1\tpassed\na2\tpassed\n")
            command = [sys.executable, Path(__file__).with_name("verdict.py"), listed, results]
            self.assertEqual(subprocess.run([*command, "^a"], capture_output=True).returncode, 0)
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, 1, "b1 was not run")

    def test_a_suite_of_which_nothing_ran_is_red(self):
        self.assertFalse(verdict(parse("a* | does not apply"), read_results("a1\tfailed\n"))[1])

    def test_an_exact_row_comes_before_a_pattern(self):
        rows = parse("a* | does not apply\na1\n")
        self.assertEqual([row_of("a1", rows).state, row_of("a2", rows).state], ["must pass", "excused"])


class Lists(unittest.TestCase):
    def test_rows_that_are_wrong_are_refused(self):
        many = "".join(f"~ t{i} | client | 1 of 2 | race\n" for i in range(UNSTEADY_MAX + 1))
        for text in ("a |", "~ a", "~ a | client | often | race", "~ a | client | 1 of 2 |", "a\na | why", many):
            with self.assertRaises(ValueError, msg=text):
                parse(text)

    def test_rows_for_a_cluster_replace_others(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "list.txt")
            path.write_text("a\nb | three brokers\n")
            path.with_name("cluster.txt").write_text("b\nc\n")
            self.assertEqual([(row.name, row.state) for row in read(path)], [("a", "must pass"), ("b", "excused")])
            self.assertEqual([(row.name, row.state) for row in read(path, 3)], [(name, "must pass") for name in "abc"])

    def test_a_row_that_went_is_seen_and_one_that_moved_is_not(self):
        earlier = "# head\na\nb\nc\nd | why\n~ e | client | 1 of 2 | race\n"
        self.assertEqual(gone(earlier, parse("a\nb | gone in 2.0\n")), {"c"})
        self.assertEqual(gone(earlier, parse("a\nb\n~ c | client | 1 of 2 | race\n")), set())


if __name__ == "__main__":
    unittest.main()
