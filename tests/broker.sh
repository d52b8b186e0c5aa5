# Starts and stops the servers that tests use: ropewalk, or Apache Kafka for comparison.
#
# Sourced after environment.sh. A server is started on free ports and stopped by its pid on EXIT, also
# when the test fails. TARGET=kafka makes start_broker start Apache Kafka instead: a test that fails
# there too is not a failure of ropewalk. BROKER_COUNT=3 makes it start a cluster of three brokers, of either.

TARGET=${TARGET:-ropewalk}
export BROKER_COUNT=${BROKER_COUNT:-1}
# Until a new cluster is whole: every broker knows all, every shard has a replica on each, and each leads its share.
WHOLE_SECONDS_MAX=180
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

# start_broker [KEY=VALUE…]: sets KAFKA (host:port, of a cluster those of all brokers with commas), ADMIN (host:port or
# empty), DATA, SERVER_PID, SERVER_LOG. PORT fixes the Kafka port and NODE_ID the broker's id, for suites that assume
# them; for the other brokers of a cluster they are counted up. ADMIN, SERVER_PID and SERVER_LOG of a cluster are those
# of its first broker, and the data and logs of all are below DATA. A KEY with `ID:` before it is for that broker only.
start_broker() {
    scratch
    case $TARGET-$BROKER_COUNT in
    kafka-1) start_kafka "$@" ;;
    kafka-*) start_kafkas "$@" ;;
    *-1) start_ropewalk "$@" ;;
    *) start_ropewalks "$@" ;;
    esac
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

# ports_of_all: sets PORTS, the Kafka port of each broker, and MORE_PORTS, as many and one more.
ports_of_all() {
    local free at
    read -ra free < <(free_ports $((BROKER_COUNT * 2 + 1)))
    PORTS=("${free[@]:0:BROKER_COUNT}") MORE_PORTS=("${free[@]:BROKER_COUNT}")
    [[ -z ${PORT:-} ]] || for ((at = 0; at < BROKER_COUNT; at++)); do PORTS[at]=$((PORT + at)); done
}

# all_started: sets what start_broker promises of a cluster, whose servers are the last ones that were started.
all_started() {
    KAFKA=$(printf ',127.0.0.1:%d' "${PORTS[@]}")
    KAFKA=${KAFKA:1} SERVER_PID=${SERVER_PIDS[-BROKER_COUNT]} SERVER_LOG=$DATA/${NODE_ID:-1}.log
}

start_ropewalks() {
    local binary own at ports=() admins=()
    binary=$(broker_binary)
    DATA=$(mktemp -d "$SCRATCH/data.XXXX")
    ports_of_all
    for ((at = 0; at < BROKER_COUNT; at++)); do
        ports+=("${PORTS[at]},${MORE_PORTS[at]},0")
        admins+=("127.0.0.1:${MORE_PORTS[at]}")
    done
    brokers_py write "$DATA" "${NODE_ID:-1}" "${ports[@]}" -- "${COMMON_SETTINGS[@]}" "$@"
    for ((at = 0; at < BROKER_COUNT; at++)); do
        own=$((${NODE_ID:-1} + at))
        KAFKA=127.0.0.1:${PORTS[at]} SERVER_LOG=$DATA/$own.log
        "$binary" run --config "$DATA/$own.properties" >"$SERVER_LOG" 2>&1 &
        server_started $!
    done
    all_started
    ADMIN=${admins[0]}
    # A call of a client that reaches the former leader fails, as in Kafka: suites begin when the new cluster has spread them.
    brokers_py spread "$WHOLE_SECONDS_MAX" "${admins[@]}" || fail "the cluster does not become whole (logs: $DATA)"
}

brokers_py() { PYTHONDONTWRITEBYTECODE=1 python3 "$TESTS/brokers.py" "$@"; }

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

# As start_kafka; the first broker is the controller too.
start_kafkas() {
    local libs own at first=${NODE_ID:-1} id config roles listeners
    libs=$(kafka_libs)
    DATA=$(mktemp -d "$SCRATCH/kafka.XXXX")
    ports_of_all
    id=$(java -cp "$libs/*" kafka.tools.StorageTool random-uuid 2>/dev/null)
    for ((at = 0; at < BROKER_COUNT; at++)); do
        own=$((first + at))
        roles=broker listeners=PLAINTEXT://127.0.0.1:${PORTS[at]}
        ((at)) || roles+=,controller listeners+=,CONTROLLER://127.0.0.1:${MORE_PORTS[-1]}
        config=$DATA/$own.properties KAFKA=127.0.0.1:${PORTS[at]} SERVER_LOG=$DATA/$own.log
        cat >"$config" <<END
process.roles=$roles
node.id=$own
controller.quorum.voters=$first@127.0.0.1:${MORE_PORTS[-1]}
listeners=$listeners
advertised.listeners=PLAINTEXT://127.0.0.1:${PORTS[at]}
controller.listener.names=CONTROLLER
log.dirs=$DATA/$own.data
default.replication.factor=3
min.insync.replicas=2
$(printf '%s\n' "${COMMON_SETTINGS[@]}" "$@" | sed -n "s/^$own://p; /^[0-9]*:/!p")
END
        java -cp "$libs/*" kafka.tools.StorageTool format -t "$id" -c "$config" >"$SERVER_LOG" 2>&1 ||
            fail "formatting Kafka's storage: $(tail -n 3 "$SERVER_LOG")"
        java -Xms512M -Xmx512M -Dlog4j2.level=WARN -cp "$libs/*" kafka.Kafka "$config" >>"$SERVER_LOG" 2>&1 &
        server_started $!
    done
    all_started
    ADMIN=''
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
    # All at once: the brokers of a cluster wait for each other.
    for pid in "${SERVER_PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
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
    [[ $BROKER_COUNT == 1 ]] || name+=-of-$BROKER_COUNT
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
