"""Prints the sub-tests to run: for each test with sub-tests in the list, the sub-tests in its source.

    sub_tests.py LIST SOURCES

The order is that of the list. Excused sub-tests are left out; sub-tests that are not in the list run too.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from lists import MUST_PASS, UNSTEADY, broker_count, read  # noqa: E402

listed = {row.name: row for row in read(Path(sys.argv[1]), broker_count()) if "/" in row.name}
found = {}
for test in sorted({name.partition("/")[0] for name in listed}):
    (source,) = [path for path in Path(sys.argv[2]).glob(f"{test[:4]}[-_]*.c*") if path.suffix in (".c", ".cpp")]
    functions = re.findall(r"^static void\s+(\w+)\([^;{]*\)\s*\{(.*?)^\}", source.read_text(), re.S | re.M)
    found |= {f"{test}/{name}": None for name, body in functions if "SUB_TEST" in body and f"{test}/{name}" not in listed}
for name in [name for name, row in listed.items() if row.state in (MUST_PASS, UNSTEADY)] + list(found):
    print(name)
