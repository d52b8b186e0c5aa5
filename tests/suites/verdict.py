"""Holds the results of an external suite against the committed list of what must pass.

    verdict.py LIST RESULTS

LIST has one test a line: `NAME` must pass; `NAME | REASON` does not apply, or fails for a reason that is
not ours (it fails against Apache Kafka too, or needs what is said not to be there yet). A name may end in `*`.
RESULTS has one result a line, with tabs: NAME, `passed`, `failed` or `skipped`, and what was said.

The list can only grow: a test in it that does not pass, or was not run, fails the suite. A test outside it
that passes is printed as news, to be added. A test outside it that fails is printed and counted. A suite
may try a failed test again, alone, because they lean on time: what passes then is named.
"""

import fnmatch
import sys
from pathlib import Path


def read_list(path):
    must_pass, excused = [], {}
    for line in Path(path).read_text().splitlines():
        line = line.split("#")[0].strip() if line.startswith("#") else line.strip()
        name, bar, reason = (part.strip() for part in line.partition("|"))
        if bar:
            excused[name] = reason
        elif name:
            must_pass.append(name)
    return must_pass, excused


def read_results(path):
    """The last result of each test counts; those that failed before it are named."""
    results, again = {}, []
    for line in Path(path).read_text().splitlines():
        name, outcome, said = (line.split("\t", 2) + ["", ""])[:3]
        if results.get(name, ("",))[0] == "failed" and outcome == "passed":
            again.append(f"passed when tried again: {name}: at first: {results[name][1]}")
        results[name] = (outcome, said)
    return results, again


def excuse_for(name, excused):
    return next((why for pattern, why in excused.items() if fnmatch.fnmatchcase(name, pattern)), None)


def main():
    must_pass, excused = read_list(sys.argv[1])
    results, again = read_results(sys.argv[2])
    passed = [name for name in must_pass if results.get(name, ("",))[0] == "passed"]
    broken = [name for name in must_pass if name not in passed]
    failed, news, unused = [], [], []
    for name, (outcome, said) in sorted(results.items()):
        if name in must_pass:
            continue
        excuse = excuse_for(name, excused)
        if outcome == "passed":
            news.append(f"news: {name} passes and is not in the list" + (f" (excused: {excuse})" if excuse else ""))
        elif excuse is not None or outcome == "skipped":
            unused.append(f"not applicable: {name}: {excuse or said or 'skipped by the suite itself'}")
        else:
            failed.append(f"failed, not in the list: {name}: {said}")
    not_run = [name for name in excused if not any(fnmatch.fnmatchcase(r, name) for r in results)]
    unused += [f"not applicable, not run: {name}: {excused[name]}" for name in not_run]
    for line in unused + failed + again + news:
        print(line[:300])
    for name in broken:
        outcome, said = results.get(name, ("was not run", ""))
        print(f"FAILED: {name}: {outcome}: {said}"[:600])
    print(
        f"{len(passed) + len(news)} passed, {len(broken) + len(failed)} failed "
        f"({len(broken)} of them must pass), {len(unused)} not applicable"
    )
    sys.exit(1 if broken or not passed else 0)


main()
