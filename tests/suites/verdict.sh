# The verdict on a suite. Sourced; see lists.py and verdict.py.

# verdict LIST RESULTS: tries each unsteady test that failed once more, alone, by `try_again NAME`, which the suite defines
# and which appends to RESULTS. No other test has a second try.
verdict() {
    local list=$1 results=$2 name again
    again=$(python3 "$TESTS/suites/verdict.py" --again "$list" "$results") || return
    for name in $again; do
        note "once more, alone: $name"
        try_again "$name"
    done
    python3 "$TESTS/suites/verdict.py" "$list" "$results"
}
