"""Runs Kafka's command-line tools against two brokers and compares what they print, line by line.

    compare.py LIBS KAFKA OURS DIFFERENCES     KAFKA, OURS: HOST:PORT, of a cluster those of all brokers with commas

Every step runs against both. What cannot be equal between any two brokers (ids, sizes, paths, times, speeds,
internal topics) is normalised first. Each line of DIFFERENCES allows one kind of difference:
    STEP | < or > | REGEX | REASON        < a line that only Kafka prints, > one that only we print
STEP may contain `*`. A difference that no line allows fails; an unused line of DIFFERENCES is reported.
"""

import difflib
import fnmatch
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from steps import STEPS


def nodes(match):
    return f"{match[1]}: NODES-{len(re.findall(r'[0-9]+', match[0]))}"


# Applied in order to every line.
NORMAL = [
    (r"^.*[Ww]arning: .*$|^WARNING: .*$", ""),
    (r"127\.0\.0\.1:\d+|localhost:\d+", "HOST"),
    (r"(TopicId: |topicId=|Cluster ID: |ClusterId: +)[\w-]{22}", r"\1ID"),
    # All brokers of a cluster of three hold every partition; which one leads is up to the cluster.
    (r"(Replicas|Isr|replicas|isr|CurrentVoters|CurrentObservers): +\[?\d+(?:, ?\d+)+\]?", nodes),
    (r"(Leader|Replicas|Isr|Elr|LastKnownElr|LeaderId|CurrentVoters|leader|replicas|isr): +\[?\d+\]?", r"\1: NODE"),
    (r"\(id: \d+ rack: \S+ isFenced: \S+\)|\(id: \d+ rack: \S+\)", "(NODE)"),
    (r'"(size|totalBytes|usableBytes|broker)":\d+', r'"\1":N'),
    (r'"logDir":"[^"]*"', '"logDir":"PATH"'),
    (r"HOST +\(\d+\)", "HOST (NODE)"),
    (r"for brokers? \d+", "for broker NODE"),
    (r"brokers? \d+(,\d+)*", "broker NODE"),
    (r"\b(console-consumer|perf-consumer|consumer)-[\w.-]*[0-9a-f]{8}-[0-9a-f-]{27,}", r"\1-ID"),
    (r"log\.dirs=\S+?(}| |$)", r"log.dirs=PATH\1"),
    (r"\bconsole-consumer-\d+\b", "console-consumer-ID"),
    (r"CreateTime:\d{13}", "CreateTime:TIME"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[:.]\d{3}\b", "TIME"),
    (r"\b1[789]\d{11}\b", "TIME"),
    # The admin client's message at a timeout depends on timing.
    (r"(TimeoutException: ).*", r"\1WORDS"),
    (r" +", " "),
    (r" $", ""),
]
INTERNAL = re.compile(r"__consumer_offsets|__transaction_state|__share_group_state")
# Lines of the performance tools are numbers: what is compared is their shape.
NUMBERS = [(r"-?\d+(\.\d+)?", "N")]


def normal(step, text):
    # One JSON line names every partition, internal ones too.
    text = re.sub(r'\{"partition":"__[^}]*\},?', "", text)
    text = re.sub(r'"partitions":\[(.*?),?\]', sorted_partitions, text)
    lines = []
    for line in text.splitlines():
        if INTERNAL.search(line):
            continue
        for pattern, replacement in NORMAL + (NUMBERS if step.numbers else []):
            line = re.sub(pattern, replacement, line)
        if line.strip():
            lines.append(line)
    return sorted(lines) if step.any_order else lines


def sorted_partitions(match):
    return '"partitions":[' + ",".join(sorted(re.findall(r"\{[^}]*\}", match[1]))) + "]"


def run_all(libs, bootstrap):
    """The output of every step against one broker. One JVM runs all steps, see Tools.java."""
    jars = sorted(Path(libs).glob("*.jar"))
    own = [jar for jar in jars if re.match(r"kafka-tools-\d|kafka_\d", jar.name)]
    others = [jar for jar in jars if jar not in own]
    command = ["java", "-Xmx512M", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=OFF", f"-Dtools={':'.join(map(str, own))}"]
    command += ["-cp", ":".join(map(str, others)), str(Path(__file__).with_name("Tools.java"))]
    printed = {}
    with tempfile.TemporaryDirectory() as directory, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory
    ) as tools:
        for step in STEPS:
            for name, content in step.files.items():
                Path(directory, name).write_text(content)
            words = [str(Path(directory, a)) if a in step.files else a.replace("BOOTSTRAP", bootstrap) for a in step.arguments]
            time.sleep(step.after_seconds)
            call = {"tool": step.tool, "arguments": words, "stdin": step.stdin, "seconds": step.seconds_max}
            print(json.dumps(call), file=tools.stdin, flush=True)
            answer = tools.stdout.readline()
            if not answer:
                sys.exit(f"the JVM of the tools ended in step '{step.name}'")
            answer = json.loads(answer)
            code = "time is up" if answer["code"] == -1 else answer["code"]
            printed[step.name] = [*normal(step, answer["printed"]), f"exit code {code}"]
        tools.stdin.close()
    return printed


def read_allowed(path):
    rows = [line for line in Path(path).read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [[part.strip() for part in row.split(" | ")] for row in rows]


def main():
    libs, kafka, ours, differences = sys.argv[1:5]
    with ThreadPoolExecutor(2) as pool:
        wanted, given = pool.map(lambda bootstrap: run_all(libs, bootstrap), [kafka, ours])
    allowed = read_allowed(differences)
    used, failed = set(), 0
    for step in STEPS:
        unexplained, explained = [], []
        for line in difflib.ndiff(wanted[step.name], given[step.name]):
            side = {"-": "<", "+": ">"}.get(line[0])
            if side is None:
                continue
            rule = next(
                (i for i, (name, s, pattern, _) in enumerate(allowed)
                 if s == side and fnmatch.fnmatchcase(step.name, name) and re.search(pattern, line[2:])),
                None,
            )
            if rule is None:
                unexplained.append(f"{side} {line[2:]}")
            else:
                used.add(rule)
                explained.append(rule)
        failed += bool(unexplained)
        known = f" ({len(explained)} lines differ as listed)" if explained else ""
        print(f"{'FAILED' if unexplained else 'ok':<7} {step.name}{known}")
        for line in unexplained[:40]:
            print(f"        {line[:400]}")
    for i, row in enumerate(allowed):
        if i not in used:
            print(f"news: this difference is not there any more: {' | '.join(row)}")
    for i in sorted(used):
        print(f"not applicable: {' | '.join(allowed[i])}")
    print(f"{len(STEPS) - failed} passed, {failed} failed, {len(used)} kinds of difference as listed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
