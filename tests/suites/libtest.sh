# Runs Rust test binaries and prints one result a line, as verdict.py reads them. Sourced.

# libtest PREFIX BINARY [ARGUMENTS…]: what failed is run once more, alone.
libtest() {
    local prefix=$1 binary=$2 results failed
    shift 2
    results=$(libtest_once "$prefix" "$binary" "$@")
    printf '%s\n' "$results"
    mapfile -t failed < <(awk -F'\t' -v prefix="$prefix" '$2 == "failed" { print substr($1, length(prefix) + 1) }' <<<"$results")
    ((${#failed[@]} == 0)) || libtest_once "$prefix" "$binary" "${failed[@]}" --exact --test-threads=1
}

libtest_once() {
    local prefix=$1 binary=$2 output
    shift 2
    output=$(mktemp "$SCRATCH/libtest.XXXX")
    timeout 600 "$binary" "$@" >"$output" 2>&1 || true
    cat "$output" >>"$LOG"
    python3 - "$prefix" "$output" <<'END'
import re, sys
prefix, text = sys.argv[1], open(sys.argv[2], errors="replace").read()
# What a failed test printed: the part of the output below its own head.
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
