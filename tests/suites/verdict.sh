# The verdict on a suite. Sourced; see lists.py and verdict.py.

# verdict LIST RESULTS [ONLY]: of the tests whose names match ONLY, all by default. Runs each unsteady test that failed
# again, alone, with `try_again NAME`, which the suite defines and which appends to RESULTS. No other test is tried again.
verdict() {
    local list=$1 results=$2 only=${3:-} name again
    again=$(python3 "$TESTS/suites/verdict.py" --again "$list" "$results") || return
    for name in $again; do
        note "again, alone: $name"
        try_again "$name"
    done
    python3 "$TESTS/suites/verdict.py" "$list" "$results" ${only:+"$only"}
}
