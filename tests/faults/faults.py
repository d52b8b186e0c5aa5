"""Inserts faults into the code, each behind a switch, and reports which tests detect them.

The faults are data: the *.toml files beside this one, one per area. A copy of the tree gets all of them, so
that one build serves all faults; the environment variable ROPEWALK_FAULT names the active one. A fault that no
test detects needs a new test, or the reason why no test can detect it.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Time limit of a test relative to its time without a fault: seconds added, and a factor.
PATIENCE, FACTOR = 30, 5
# Placeholder in a fault's new text for the condition that the fault is active.
ACTIVE = "$ACTIVE"
REQUIRED = {"id", "what", "file", "old", "new", "tests"}
# `lives` states why no test can detect a fault; `hangs` why tests detect it by a hang; `ends` why they detect it by
# the end of the test process.
EXCUSES = ("lives", "hangs", "ends")
SWITCH = '''
/// Whether the fault of this name is active.
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub, dead_code)]
pub mod put_in {
    pub fn is_active(id: &str) -> bool {
        static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        ACTIVE.get_or_init(|| std::env::var("ROPEWALK_FAULT").ok()).as_deref() == Some(id)
    }
}
'''


def main(arguments):
    faults = load()
    tree = instrumented(faults)
    if arguments == ["--check"]:
        print(f"{len(faults)} faults fit the code")
        return 0
    chosen = [f for f in faults if not arguments or {f["id"], f["area"]} & set(arguments)]
    if missing := set(arguments) - {f["id"] for f in faults} - {f["area"] for f in faults}:
        raise SystemExit(f"no fault and no area is called {', '.join(sorted(missing))}")
    place = pathlib.Path(os.environ["CACHE"]) / "faults"
    copy(tree, place / "tree")
    # Always all packages: with others, cargo would select other features and rebuild everything.
    binaries = build(place / "tree", {target(t) for f in faults for t in f["tests"]})
    jobs = int(os.environ.get("JOBS", 0)) or 2 * (os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        limits = sound(pool, binaries, {t for f in chosen for t in f["tests"]})
        runs = [pool.submit(notice, binaries, limits, f) for f in chosen]
        for fault, run in zip(chosen, runs):
            fault["outcome"], fault["by"] = run.result()
            print(f"{fault['outcome']:8} {fault['area']}/{fault['id']}: {fault['by']}", flush=True)
    return report(chosen, place / "table.md")


def load():
    """Every fault with its area; exits with the errors in the data."""
    faults, wrong = [], []
    for file in sorted(HERE.glob("*.toml")):
        for fault in tomllib.loads(file.read_text())["fault"]:
            if REQUIRED - fault.keys() or fault.keys() - REQUIRED - set(EXCUSES):
                wrong.append(f"{file.name}: {fault.get('id')} has not exactly the keys {sorted(REQUIRED)}")
            faults.append(fault | {"area": file.stem})
    ids = [fault.get("id") for fault in faults]
    wrong += [f"the id {i} is used twice" for i in sorted({i for i in ids if ids.count(i) > 1})]
    if wrong:
        raise SystemExit("\n".join(wrong))
    return faults


def instrumented(faults):
    """The text of each file that changes, by path. A text that is not there exactly once is an error."""
    places, wrong = {}, []
    for fault in faults:
        text = (ROOT / fault["file"]).read_text() if (ROOT / fault["file"]).is_file() else ""
        if (count := text.count(fault["old"])) != 1:
            wrong.append(f"{fault['area']}/{fault['id']}: its old text is {count} times in {fault['file']}")
            continue
        at = text.index(fault["old"])
        places.setdefault(fault["file"], []).append((at, at + len(fault["old"]), fault))
    files, crates = {}, set()
    for file, found in places.items():
        found.sort(key=lambda place: place[0], reverse=True)
        text = (ROOT / file).read_text()
        for (start, end, fault), after in zip(found, [None, *found]):
            if after and after[0] < end:
                wrong.append(f"{fault['id']} and {after[2]['id']} change the same text")
            text = text[:start] + switched(fault) + text[end:]
        files[file] = text
        crates.add(next(p for p in pathlib.Path(file).parents if (ROOT / p / "Cargo.toml").is_file()))
    if wrong:
        raise SystemExit("\n".join(wrong))
    for crate in crates:
        library = str(crate / "src" / "lib.rs")
        text = files.get(library, (ROOT / library).read_text()) + SWITCH
        # Faults cause warnings. A crate attribute has to follow the crate's doc comment.
        files[library] = re.sub(r"\A((?://!.*\n)*)", r"\1#![allow(warnings)]\n", text, count=1)
    return files


def switched(fault):
    """The old text and the new one with a choice between them."""
    question, old, new = f'crate::put_in::is_active("{fault["id"]}")', fault["old"], fault["new"]
    if ACTIVE in new:
        return new.replace(ACTIVE, question)
    choice = f"if {question} {{ {new} }} else {{ {old} }}"
    return choice if old.rstrip().endswith((";", "}")) else f"({choice})"


def copy(changed, place):
    """Updates the copy of the tree. Writes only files that differ, because cargo compares modification times."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    wanted = {name for name in listed if name and (ROOT / name).is_file()}
    for name in wanted:
        to = place / name
        content = changed[name].encode() if name in changed else (ROOT / name).read_bytes()
        if not (to.is_file() and to.read_bytes() == content):
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)
    for path in place.rglob("*"):
        if path.is_file() and str(path.relative_to(place)) not in wanted:
            path.unlink()


def target(test):
    """Package and target of a test: `broker lib handle::` is in the library's tests of that package."""
    return tuple(test.split()[:2])


def build(tree, targets):
    """The test programs, by target, with the directory that cargo would run each in."""
    command = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics"]
    for package in sorted({package for package, _ in targets}):
        command += ["-p", f"ropewalk-{package}"]
    for name in sorted({name for _, name in targets}):
        command += ["--lib"] if name == "lib" else ["--test", name]
    print(" ".join(command), flush=True)
    built = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        raise SystemExit("the tree with the faults does not build")
    found = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            folder = pathlib.Path(message["manifest_path"]).parent
            package = tomllib.loads((folder / "Cargo.toml").read_text())["package"]["name"]
            name = "lib" if "lib" in message["target"]["kind"] else message["target"]["name"]
            found[package.removeprefix("ropewalk-"), name] = (message["executable"], folder)
    return found


def run(binaries, test, fault, limit):
    """One run of a test program: its exit code (None past the limit), what it printed, the seconds it took."""
    program, folder = binaries[target(test)]
    variables = os.environ | {
        "CARGO_MANIFEST_DIR": str(folder),
        # Inputs that fail with a fault must not be stored as regressions.
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "true",
        "PROPTEST_MAX_SHRINK_ITERS": "100",
    }
    variables.pop("ROPEWALK_FAULT", None)
    if fault:
        variables["ROPEWALK_FAULT"] = fault
    began = time.monotonic()
    process = subprocess.Popen(
        [program, *test.split()[2:]], cwd=folder, env=variables, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )
    try:
        printed, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        code = None
    return code, printed, time.monotonic() - began


def sound(pool, binaries, tests):
    """Runs the tests without a fault: each has to exist and to pass. Returns the time limit of each in seconds."""
    tests = sorted(tests)
    missing = [test for test in tests if target(test) not in binaries or not selected(binaries, test)]
    if missing:
        raise SystemExit(f"these select no test: {missing}")
    began = time.monotonic()
    limits, failed = {}, []
    for test, (code, printed, seconds) in zip(tests, pool.map(lambda t: run(binaries, t, None, 1200), tests)):
        limits[test] = PATIENCE + FACTOR * seconds
        print(f"{seconds:5.0f} s  {test}", flush=True)
        if code != 0:
            failed.append(f"without a fault, '{test}' does not pass:\n{printed[-9000:]}")
    if failed:
        raise SystemExit("\n".join(failed))
    print(f"without a fault {len(tests)} selections pass in {time.monotonic() - began:.0f} s", flush=True)
    return limits


def selected(binaries, test):
    """Whether there is a test that `test` selects."""
    program, folder = binaries[target(test)]
    command = [program, "--list", *test.split()[2:]]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return re.search(r": test$", listed, re.M)


def notice(binaries, limits, fault):
    """The outcome of a fault, and the tests that detected it."""
    for test in fault["tests"]:
        code, printed, seconds = run(binaries, test, fault["id"], limits[test])
        failed = re.findall(r"^test (\S+) .*?\.\.\. FAILED$|^    (\S+)$", printed, re.M)
        failed = sorted({one or other for one, other in failed})
        if code is None:
            return "hung", f"'{test}' was not done after {seconds:.0f} s"
        if code == 101 and "test result: FAILED" in printed:
            return "noticed", ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if failed[3:] else "")
        if code != 0:
            return "ended", f"'{test}' ended with {code}: {printed.strip().splitlines()[-1:]}"
    return "lived", fault["what"]


def report(faults, table):
    """Prints the score and writes the table; the exit code."""
    rows, bad, areas = [], [], {}
    for fault in faults:
        excuse = {"lived": "lives", "hung": "hangs", "ended": "ends"}.get(fault["outcome"])
        is_noticed = fault["outcome"] == "noticed" or (excuse in fault and excuse != "lives")
        score = areas.setdefault(fault["area"], [0, 0, 0])
        score[0] += is_noticed
        score[1] += "lives" not in fault
        score[2] += "lives" in fault
        wrong = "lives" in fault if is_noticed else excuse not in fault
        if wrong:
            bad.append(fault)
        rows.append((fault["area"], fault["id"], fault["what"], fault["outcome"], fault["by"]))
    table.write_text(
        "| area | fault | what | outcome | by |\n|---|---|---|---|---|\n"
        + "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
    )
    print(f"\n{'area':12} noticed   of   that cannot be noticed")
    for area, (noticed, of, cannot) in areas.items():
        print(f"{area:12} {noticed:7} {of:4}   {cannot}")
    for fault in bad:
        print(f"{fault['outcome']}: {fault['area']}/{fault['id']}: {fault['what']} ({fault['by']})")
    noticed, of = (sum(score[i] for score in areas.values()) for i in (0, 1))
    print(f"table: {table}\n{noticed} of {of} faults noticed; {len(bad)} to be answered")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
