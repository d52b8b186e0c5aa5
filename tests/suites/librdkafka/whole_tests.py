"""Prints the numbers of the tests that run as a whole against a broker: those of the runner's table, without local and
manual tests, and without the tests that the list excuses.

    whole_tests.py LIST SOURCES
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from lists import EXCUSED, broker_count, read  # noqa: E402

excused = {row.name for row in read(Path(sys.argv[1]), broker_count()) if row.state == EXCUSED}
table = re.findall(r"^ +_TEST\(\s*(\w+),(.*?)\),$", (Path(sys.argv[2]) / "test.c").read_text(), re.S | re.M)
numbers = {name[:4] for name, flags in table if not re.search("TEST_F_(LOCAL|MANUAL)", flags) and name not in excused}
print(*sorted(numbers), sep="\n")
