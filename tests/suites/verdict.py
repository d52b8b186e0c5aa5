"""Compares the results of an external suite with the committed list of what must pass (see lists.py).

    verdict.py LIST RESULTS [ONLY]     the verdict; fails if a test fails or has no row. ONLY is a regular expression:
                                       other rows and other results are left out
    verdict.py --again LIST RESULTS    the unsteady tests that failed, to be tried again

RESULTS has one result per line, with tabs: NAME, `passed`, `failed` or `skipped`, and a message. The first result of a
test counts. Only a test that the list marks as unsteady may have a second one: a pass is then reported and counted.
"""

import fnmatch
import re
import sys
from pathlib import Path

from lists import EXCUSED, MUST_PASS, UNSTEADY, Row, broker_count, read

NO_ROW = Row("", "not listed")


def read_results(text):
    """All results of each test, in order."""
    results = {}
    for line in text.splitlines():
        name, outcome, said = (line.split("\t", 2) + ["", ""])[:3]
        results.setdefault(name, []).append((outcome, said))
    return results


def row_of(name, rows):
    exact = next((row for row in rows if row.name == name), None)
    return exact or next((row for row in rows if row.state != MUST_PASS and fnmatch.fnmatchcase(name, row.name)), NO_ROW)


def judge(row, results):
    """`passed`, `passed at try 2`, `failed` or `not applicable` for one test, and why."""
    outcome, said = results[0]
    if row.state == EXCUSED:
        return ("news", "passes though excused: " + row.reason) if outcome == "passed" else ("not applicable", row.reason)
    if row == NO_ROW:
        return "failed", f"{outcome}, and it has no row in the list: {said}"
    if row.state == UNSTEADY and outcome == "failed" and [later for later, _ in results[1:]] == ["passed"]:
        return "passed at try 2", f"{row.reason}: at first: {said}"
    if row.state == UNSTEADY and len(results) > 1:
        said += f"; at try 2: {results[1][1]}"
    return ("passed", "") if outcome == "passed" else ("failed", f"{outcome}: {said}")


def verdict(rows, results):
    """The lines to print, and whether the suite passed."""
    found = [(name, *judge(row_of(name, rows), tries)) for name, tries in sorted(results.items())]
    used = {row_of(name, rows) for name in results}
    for row in rows:
        if row not in used:
            found.append((row.name, "not applicable, not run", row.reason) if row.state == EXCUSED else
                         (row.name, "failed", "was not run"))
    shown = ["not applicable", "not applicable, not run", "news", "passed at try 2", "failed"]
    lines = [
        f"{'FAILED' if how == 'failed' else how}: {name}{why and ': ' + why}"[:600]
        for how in shown for name, state, why in found if state == how
    ]
    count = {how: sum(state == how for _, state, _ in found) for how in [*shown, "passed"]}
    passed = count["passed"] + count["passed at try 2"]
    again = f" ({count['passed at try 2']} at try 2)" if count["passed at try 2"] else ""
    lines.append(
        f"{passed} passed{again}, {count['failed']} failed, "
        f"{len(found) - passed - count['failed']} not applicable"
    )
    return lines, not count["failed"] and passed > 0


def main():
    arguments = sys.argv[1:]
    again = arguments[0] == "--again"
    path, results, *only = arguments[again:]
    rows, results = read(Path(path), broker_count()), read_results(Path(results).read_text())
    if only:
        rows = [row for row in rows if re.search(only[0], row.name)]
        results = {name: tries for name, tries in results.items() if re.search(only[0], name)}
    if again:
        failed = [name for name, tries in results.items() if tries[0][0] == "failed"]
        print(*(name for name in failed if row_of(name, rows).state == UNSTEADY), sep="\n", end="\n" if failed else "")
        return 0
    lines, holds = verdict(rows, results)
    print(*lines, sep="\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
