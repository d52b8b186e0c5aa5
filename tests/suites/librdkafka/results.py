"""Prints the results of one run of librdkafka's test runner, one per line, in the format of verdict.py.

    results.py PASS LOG     in the folder of the runner's report; a PASS named NUMBER ran the tests of that number,
                            one named NUMBER_name+SUBTEST one sub-test
"""

import json
import re
import sys
from pathlib import Path

STATES = {"PASSED": "passed", "SKIPPED": "skipped"}


def main():
    name, log = sys.argv[1], Path(sys.argv[2]).read_text(errors="replace")
    report = next(Path().glob("test_report_*.json"), None)
    if report is None:
        said = " | ".join(line for line in log.splitlines()[-3:] if line)
        return [(name.replace("+", "/"), "failed", f"the runner ended without a report: {said}")]
    tests = json.loads(report.read_text())["tests"].values()
    return [sub_test(*name.split("+"), tests, log)] if "+" in name else list(whole_tests(tests, name))


def whole_tests(tests, number):
    """The results of a pass: of the tests of one number, or of all that it ran if its name is not a number."""
    for test in tests:
        if number.isdigit() and not test["name"].startswith(number):
            continue
        said = words_of(test)
        # Tests of another pass are no results; tests that the suite itself skips are.
        elsewhere = "not matched" in said or "requires test scenario" in said or "flags" in said
        if test["name"] != "<MAIN>" and not elsewhere and (test["state"] != "SKIPPED" or said):
            yield test["name"], STATES.get(test["state"], "failed"), said


def words_of(test):
    return " ".join((test["extra"] or "; ".join(str(line) for line in test["report"][-1:])).split())


def sub_test(name, sub, tests, log):
    """A runner without a matching sub-test passes, so its log has to show that the sub-test ran."""
    (test,) = [test for test in tests if test["name"] == name]
    ran = re.search(rf"\[ {sub}:\d+[^\n]*: PASS ", log)
    skipped = re.search(rf"\[ {sub}:\d+[^\n]*: SKIP: ([^\n]*)", log)
    if test["state"] != "PASSED":
        outcome, said = "failed", words_of(test)
    elif ran:
        outcome, said = "passed", ""
    elif skipped:
        outcome, said = "skipped", skipped[1]
    else:
        outcome, said = "failed", "no sub-test of this name ran"
    return f"{name}/{sub}", outcome, said


# By one write: several passes append to one file at the same time, and an unbuffered print writes each part by itself.
sys.stdout.write("".join("\t".join(result) + "\n" for result in main()))
