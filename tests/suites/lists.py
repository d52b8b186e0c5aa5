"""The lists of external suites: the format of a row, and the check that no row disappears.

    lists.py     compares each list of this directory with every commit that touched it

A suite that runs against a cluster (BROKER_COUNT in tests/broker.sh) reads list.txt and then, if there is one,
cluster.txt beside it, whose rows replace rows of the same name and add others.

A row is one test, in one of three states. A name may end in `*`, except in the first.
    NAME                                must pass
    NAME | REASON                       excused: does not apply, or fails for a reason outside of ropewalk
    ~ NAME | OWNER | N of M | CAUSE     unsteady: passed N of M runs because of a race in OWNER, never in ropewalk

A test that had to pass in any commit has a row in the current list: a test that fails, or that a later version of its
suite does not have, gets a reason and is not deleted.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MUST_PASS, EXCUSED, UNSTEADY = "must pass", "excused", "unsteady"
# With more unsteady tests, the result of a suite means little.
UNSTEADY_MAX = 5


@dataclass(frozen=True)
class Row:
    name: str
    state: str
    reason: str = ""


def parse(text):
    """The rows of a list; a ValueError says which one is wrong."""
    rows = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, *words = (part.strip() for part in line.removeprefix("~").split("|"))
        if line.startswith("~"):
            if len(words) != 3 or not all(words) or not re.fullmatch(r"\d+ of \d+", words[1]):
                raise ValueError(f"'{line}' is not '~ NAME | OWNER | N of M | CAUSE'")
            rows.append(Row(name, UNSTEADY, f"{words[2]} ({words[0]}; passed {words[1]})"))
        elif words:
            if not "|".join(words):
                raise ValueError(f"'{line}' gives no reason")
            rows.append(Row(name, EXCUSED, " | ".join(words)))
        else:
            rows.append(Row(name, MUST_PASS))
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"more than one row: {', '.join(sorted(twice))}")
    if sum(row.state == UNSTEADY for row in rows) > UNSTEADY_MAX:
        raise ValueError(f"more than {UNSTEADY_MAX} rows are unsteady")
    return rows


def read(path, brokers=1):
    """The rows for a suite that runs against so many brokers."""
    rows = read_one(path)
    of_cluster = path.with_name("cluster.txt")
    if brokers == 1 or not of_cluster.exists():
        return rows
    others = read_one(of_cluster)
    replaced = {row.name for row in others}
    return [row for row in rows if row.name not in replaced] + others


def read_one(path):
    try:
        return parse(path.read_text())
    except ValueError as wrong:
        sys.exit(f"{path}: {wrong}")


def broker_count():
    """How many brokers this run has."""
    return int(os.environ.get("BROKER_COUNT", "1"))


def must_pass_names(text):
    """The names that had to pass by the list of an earlier commit, in any earlier format."""
    rows = [line for line in map(str.strip, text.splitlines()) if line and line[0] not in "#~" and "|" not in line]
    return {row.rstrip(":") for row in rows}


def gone(earlier, today):
    """The names that had to pass by an earlier list and have no row in the current one."""
    return must_pass_names(earlier) - {row.name for row in today}


def git(*arguments):
    here = Path(__file__).resolve().parent
    return subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=False)


def main():
    here = Path(__file__).resolve().parent
    log = git("log", "--format=%H", "--name-only", "--relative", "--", "*/list.txt", "*/cluster.txt")
    if log.returncode:
        print(f"the lists of the suites were not compared with earlier ones: {log.stderr.strip()}")
        return 0
    commit, compared, missing = None, 0, {}
    for line in filter(None, log.stdout.splitlines()):
        if re.fullmatch(r"[0-9a-f]{40,64}", line):
            commit = line
            continue
        earlier = git("show", f"{commit}:./{line}")
        if earlier.returncode:
            continue  # The commit that removed the list: earlier ones have it.
        compared += 1
        path = here / line
        for name in gone(earlier.stdout, read(path) if path.exists() else []):
            missing.setdefault((line, name), commit)
    for (path, name), commit in sorted(missing.items()):
        print(f"tests/suites/{path}: {name} had to pass in {commit[:12]} and has no row now: give it one with a reason")
    shallow = git("rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    short = "; this clone is shallow, so older ones were not checked" if shallow else ""
    print(f"lists of the suites: compared with {compared} earlier ones, {len(missing)} rows are missing{short}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
