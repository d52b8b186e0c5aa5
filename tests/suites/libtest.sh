# Runs Rust test binaries and prints one result per line, in the format of verdict.py. Sourced.

# libtest NAME BINARY [ARGUMENTS…]: each result is called NAME/TEST.
libtest() {
    local prefix=$1/ binary=$2 output
    shift 2
    output=$(mktemp "$SCRATCH/libtest.XXXX")
    timeout 600 "$binary" "$@" >"$output" 2>&1 || true
    cat "$output" >>"$LOG"
    python3 - "$prefix" "$output" <<'END'
import re, sys
prefix, text = sys.argv[1], open(sys.argv[2], errors="replace").read()
# The output of a failed test: the part below its heading.
said = dict(re.findall(r"^---- (\S+) stdout ----\n(.*?)(?=^----|^failures:|\Z)", text, re.S | re.M))
# Other threads may print between a test's name and its outcome, so failures are taken from the list at the end.
failed = set(re.findall(r"^    (\S+)$", text.rpartition("\nfailures:\n")[2], re.M)) | set(said)
names = set(re.findall(r"^test (\S+)(?: - should panic)? \.\.\. ", text, re.M)) | failed
ended = "test result:" in text
for name in sorted(names):
    ignored = re.search(rf"^test {re.escape(name)} \.\.\. ignored", text, re.M)
    outcome = "failed" if name in failed or not ended else "skipped" if ignored else "passed"
    why = " ".join(said.get(name, "" if ended else "the test binary did not end").split())[:400]
    print(f"{prefix}{name}", outcome, why if outcome == "failed" else "", sep="\t")
END
}

# built NAME: the binary of one of a crate's tests.
built() { find target/debug/deps -maxdepth 1 -name "$1-*" -executable -type f | head -n 1; }

# For verdict.sh.
try_again() { libtest "${1%%/*}" "$(built "${1%%/*}")" "${1#*/}" --exact --test-threads=1 >>"$LOG.results"; }
