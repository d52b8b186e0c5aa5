# Functions that all test scripts share: the cache, and the installation of what a test needs.
#
# Sourced, never run. Build outputs are outside of the tree in $CACHE, keyed by version, so that a
# second run builds nothing. A section that cannot run here calls `cannot_run REASON`: it ends with
# exit code 77, which tests/run counts as skipped, never as passed.

TESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$TESTS")
CACHE=${ROPEWALK_TESTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ropewalk-tests}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
# Crates of other projects are built with our toolchain, whatever they pin.
export RUSTUP_TOOLCHAIN=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")
export PIP_DISABLE_PIP_VERSION_CHECK=1 NPM_CONFIG_FUND=false NPM_CONFIG_AUDIT=false
mkdir -p "$CACHE"

note() { printf '%s\n' "$*" >&2; }
cannot_run() { note "cannot run here: $*"; exit 77; }
fail() { note "failed: $*"; exit 1; }

# cached NAME COMMAND…: a directory $CACHE/NAME that COMMAND fills once. COMMAND is called with the
# directory as its last argument. With two callers at a time, the second waits for the first.
cached() {
    local name=$1 dir=$CACHE/$1
    shift
    if [[ ! -e $dir/.complete ]]; then
        (
            flock 9
            [[ -e $dir/.complete ]] && exit 0
            note "building $name"
            rm -rf "$dir" && mkdir -p "$dir"
            "$@" "$dir" >"$CACHE/$name.log" 2>&1 || { tail -n 30 "$CACHE/$name.log" >&2; exit 1; }
            touch "$dir/.complete"
        ) 9>"$CACHE/$name.lock" || fail "building $name (log: $CACHE/$name.log)"
    fi
    printf '%s\n' "$dir"
}

# key_of FILE…: a key of a cached directory that changes with these files.
key_of() { cat "$@" | sha256sum | cut -c1-12; }

# need_packages PACKAGE…: Debian packages, installed when missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || cannot_run "Debian packages ${missing[*]} are missing, and only root can install them"
    (
        flock 9
        apt-get install -y --no-install-recommends "${missing[@]}" ||
            { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; }
    ) 9>"$CACHE/apt.lock" >"$CACHE/apt.log" 2>&1 || fail "installing ${missing[*]} (log: $CACHE/apt.log)"
}

need_commands() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || cannot_run "$command is not installed"
    done
}

# python_with REQUIREMENTS: the interpreter of a virtual environment that holds exactly that file.
python_with() {
    need_commands python3
    local requirements=$1 key
    key=$( (python3 --version; cat "$requirements") | sha256sum | cut -c1-12)
    printf '%s/bin/python\n' "$(cached "python-$key" make_python "$requirements")"
}
make_python() {
    python3 -m venv "$2" && "$2/bin/pip" install -q -r "$1"
}

# go_module MODULE@VERSION DIRECTORY: a writable copy of a Go module, as its authors published it.
go_module() {
    local from
    from=$(cd "$2" && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [[ -n $from ]] && cp -r "$from/." "$2/" && chmod -R u+w "$2"
}

# in_parallel N COMMAND: calls COMMAND with each line of standard input, N at a time. Fails if one failed, and only
# after all have ended.
in_parallel() {
    local most=$1 command=$2 line ended status=0
    local -A running=()
    while read -r line; do
        "$command" "$line" </dev/null &
        running[$!]=1
        ((${#running[@]} < most)) || { wait -n -p ended "${!running[@]}" || status=1; unset "running[$ended]"; }
    done
    for ended in "${!running[@]}"; do wait "$ended" || status=1; done
    return $status
}

# cargo_tool NAME VERSION: the directory of a program that comes as a crate. Not optimised: building it takes longer
# than running it.
cargo_tool() { printf '%s/bin\n' "$(cached "$1-$2" make_cargo_tool "$1@$2")"; }
make_cargo_tool() {
    # A separate target directory, so that the workspace's lints and flags do not apply.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$2/build cargo install -q --locked --debug --root "$2" "$1" &&
        rm -rf "$2/build"
}

# crate_source NAME VERSION DIRECTORY: a copy of a crate, as its authors published it, its own workspace.
crate_source() {
    local fetch
    fetch=$(mktemp -d) && (
        cd "$fetch"
        mkdir src && touch src/lib.rs
        printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\n%s = "=%s"\n' "$1" "$2" >Cargo.toml
        cargo fetch -q
    ) && rm -rf "$fetch" &&
        cp -r "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$2/." "$3/" &&
        rm -f "$3"/rust-toolchain* && printf '\n[workspace]\n' >>"$3/Cargo.toml"
}

# build_static: makes cargo build programs as they are in the images, so that the tests use what is shipped, and both
# share one build.
build_static() {
    CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
    export CARGO_BUILD_TARGET
    export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$CARGO_BUILD_TARGET")_RUSTFLAGS=-C target-feature=+crt-static"
}

# released PACKAGE: builds one of our programs in release, and prints its path.
released() (
    need_commands cargo
    cd "$ROOT"
    build_static
    cargo build -q --locked --release -p "$1" >&2 || fail "building $1"
    printf '%s/%s/release/%s\n' "$CARGO_TARGET_DIR" "$CARGO_BUILD_TARGET" "$1"
)

# cargo_tests CARGO_ARGUMENT…: runs our tests, shows their output, and sets COUNT to the number that passed. A filter
# that matches none fails.
cargo_tests() {
    local output
    output=$(mktemp)
    cargo test "$@" 2>&1 | tee "$output" || { rm "$output"; return 1; }
    COUNT=$(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$output")
    rm "$output"
    ((COUNT > 0)) || fail "no test matches: cargo test $*"
}
