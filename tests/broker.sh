# Starts and stops the servers that tests use: ropewalk, or Apache Kafka for comparison.
#
# Sourced after environment.sh. A server is started on free ports and stopped by its pid on EXIT, also
# when the test fails. TARGET=kafka makes start_broker start Apache Kafka instead: a test that fails
# there too is not a failure of ropewalk.

TARGET=${TARGET:-ropewalk}
KAFKA_VERSION=4.3.1
SERVER_PIDS=()
SCRATCH=
trap 'stop_servers' EXIT
trap 'exit 130' INT TERM

# A directory that is removed when the script ends.
scratch() {
    [[ -n $SCRATCH ]] || SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/ropewalk-tests.XXXXXX")
}

# The path of the broker's binary.
broker_binary() {
    if [[ -n ${ROPEWALK_BROKER:-} ]]; then printf '%s\n' "$ROPEWALK_BROKER"; else released ropewalk-broker; fi
}

kafka_libs() {
    need_commands java mvn
    printf '%s/libs\n' "$(cached "kafka-$KAFKA_VERSION" make_kafka)"
}
make_kafka() {
    # In a folder of its own: Maven reads any pom in the parent directories.
    cp "$TESTS/kafka/pom.xml" "$1/" && cd "$1" && mvn -q -B dependency:copy-dependencies -DoutputDirectory="$1/libs"
}

# Settings of both brokers in tests; Kafka's defaults wait 3 s for the first group member.
COMMON_SETTINGS=(group.initial.rebalance.delay.ms=0 num.partitions=4)

# start_broker [KEY=VALUE…]: sets KAFKA (host:port), ADMIN (host:port or empty), DATA, SERVER_PID.
# PORT fixes the Kafka port and NODE_ID the broker's id, for suites that assume them.
start_broker() {
    scratch
    if [[ $TARGET == kafka ]]; then start_kafka "$@"; else start_ropewalk "$@"; fi
}

start_ropewalk() {
    local binary port admin_port set=() setting
    binary=$(broker_binary)
    read -r port admin_port < <(free_ports 2)
    port=${PORT:-$port}
    DATA=$(mktemp -d "$SCRATCH/data.XXXX")
    for setting in "${COMMON_SETTINGS[@]}" ${NODE_ID:+node.id=$NODE_ID} "$@"; do set+=(--set "$setting"); done
    KAFKA=127.0.0.1:$port ADMIN=127.0.0.1:$admin_port SERVER_LOG=$DATA.log
    "$binary" dev --data "$DATA" --kafka "$KAFKA" --admin "$ADMIN" "${set[@]}" >"$SERVER_LOG" 2>&1 &
    server_started $!
}

start_kafka() {
    local libs port controller config id
    libs=$(kafka_libs)
    read -r port controller < <(free_ports 2)
    port=${PORT:-$port}
    DATA=$(mktemp -d "$SCRATCH/kafka.XXXX")
    config=$DATA.properties
    KAFKA=127.0.0.1:$port ADMIN='' SERVER_LOG=$DATA.log
    cat >"$config" <<END
process.roles=broker,controller
node.id=${NODE_ID:-1}
controller.quorum.voters=${NODE_ID:-1}@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$DATA
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
$(printf '%s\n' "${COMMON_SETTINGS[@]}" "$@")
END
    id=$(java -cp "$libs/*" kafka.tools.StorageTool random-uuid 2>/dev/null)
    java -cp "$libs/*" kafka.tools.StorageTool format -t "$id" -c "$config" >"$SERVER_LOG" 2>&1 ||
        fail "formatting Kafka's storage: $(tail -n 3 "$SERVER_LOG")"
    java -Xms1G -Xmx1G -Dlog4j2.level=WARN -cp "$libs/*" kafka.Kafka "$config" >>"$SERVER_LOG" 2>&1 &
    server_started $!
}

# server_started PID [SECONDS]: waits until the server that was just started answers, 60 s by default, or reports why it
# ended.
server_started() {
    local seconds=${2:-60}
    local deadline=$((SECONDS + seconds))
    SERVER_PID=$1
    SERVER_PIDS+=("$1")
    until (exec 3<>"/dev/tcp/${KAFKA/://}") 2>/dev/null; do
        kill -0 "$1" 2>/dev/null || fail "the broker ended at once: $(tail -n 5 "$SERVER_LOG")"
        ((SECONDS < deadline)) || fail "the broker does not listen on $KAFKA after $seconds s: $(tail -n 5 "$SERVER_LOG")"
        sleep 0.05
    done
}

stop_broker() {
    local pid=${1:-$SERVER_PID} deadline=$((SECONDS + 20))
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        ((SECONDS < deadline)) || { kill -9 "$pid"; break; }
        sleep 0.05
    done
    wait "$pid" 2>/dev/null || true
}

stop_servers() {
    local status=$? pid
    for pid in "${SERVER_PIDS[@]}"; do stop_broker "$pid"; done
    SERVER_PIDS=()
    # KEEP=1 keeps logs and data for inspection.
    [[ -z $SCRATCH || -n ${KEEP:-} ]] || rm -rf "$SCRATCH"
    return $status
}

# free_ports N: prints N ports, as broker.py finds them.
free_ports() { PYTHONPATH=$TESTS PYTHONDONTWRITEBYTECODE=1 python3 -c "import broker, sys; print(*broker.free_ports(int(sys.argv[1])))" "$1"; }

# log_of NAME: prints the path of the file for a suite's output, to be read after a failure.
log_of() {
    local name=$1
    [[ $TARGET == ropewalk ]] || name+=-$TARGET
    mkdir -p "$CACHE/logs" && : >"$CACHE/logs/$name.suite" && printf '%s\n' "$CACHE/logs/$name.suite"
}

# own_network SCRIPT ARGUMENTS…: runs the script again in a network of its own, where every port is free.
# Needs root; without it the caller continues in the current network.
own_network() {
    [[ -z ${OWN_NETWORK:-} ]] && unshare --net true 2>/dev/null || return 0
    OWN_NETWORK=1 exec unshare --net bash -c 'ip link set lo up && exec "$@"' -- "$@"
}

# need_ports PORT…: a section that needs certain ports cannot run where they are taken.
need_ports() {
    local port
    for port in "$@"; do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || cannot_run "another process listens on port $port"
    done
}
