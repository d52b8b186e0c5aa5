# Definitions that up, down and their parts share: names, addresses, and paths of the test cluster.
#
# Sourced after environment.sh. One cluster per machine. Everything it runs is a descendant of one process, in
# PID, mount and network namespaces of its own, so that ending that process ends all of it: programs, shims,
# containers, mounts, bridges and iptables rules. What is left for `down` are cgroup directories and files.

KUBE=$TESTS/kubernetes
KUBERNETES_VERSION=1.34.4
HELM_VERSION=4.3.1
COREDNS_VERSION=1.14.7

# Short, because the length of socket paths is limited.
STATE=/var/tmp/ropewalk-kubernetes
NODES=(node-1 node-2 node-3)

# The host's end of its only link to the cluster, and the network behind it.
HOST_LINK=rwk-host
NODE_NETWORK=10.201.0
HOST_IP=$NODE_NETWORK.1
CONTROL_IP=$NODE_NETWORK.2
POD_NETWORK=10.244
SERVICE_NETWORK=10.96
DNS_IP=$SERVICE_NETWORK.0.10
API=https://$CONTROL_IP:6443
# The cluster is not behind a proxy.
export NO_PROXY="${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost,10.0.0.0/8,.svc,.cluster.local"
export no_proxy=$NO_PROXY

node_number() { printf '%s\n' "${1#node-}"; }
node_ip() { printf '%s.%d\n' "$NODE_NETWORK" $((10 + $(node_number "$1"))); }
node_pods() { printf '%s.%d.0/24\n' "$POD_NETWORK" "$(node_number "$1")"; }
containerd_socket() { printf '%s/%s/containerd.sock\n' "$STATE" "$1"; }

# The process whose end ends the cluster; prints nothing if there is none.
cluster_pid() {
    local pid
    pid=$(cat "$STATE/pid" 2>/dev/null) || return 1
    # The pid may belong to another program by now.
    grep -qz "/tests/kubernetes/start$" "/proc/$pid/cmdline" 2>/dev/null && printf '%s\n' "$pid"
}

# The first process in its PID namespace.
cluster_init() { pgrep -P "$(cluster_pid)" | head -n 1; }

# in_cluster COMMAND…: runs it in the mount and PID namespaces of the control plane, in the host's network.
in_cluster() { nsenter --target "$(cluster_init)" --mount --pid "$@"; }

# in_control COMMAND…: runs it on the host, in the network of the control plane.
in_control() { nsenter --net="/proc/$(cluster_init)/root/run/netns/control" "$@"; }

kubectl() { in_control "$STATE/bin/kubectl" --kubeconfig "$STATE/admin.kubeconfig" "$@"; }

# until_true SECONDS WHAT COMMAND…: tries four times a second.
until_true() {
    local seconds=$1 what=$2
    local deadline=$((SECONDS + seconds))
    shift 2
    until "$@" >/dev/null 2>&1; do
        cluster_pid >/dev/null || fail "the test cluster ended while waiting for $what (logs: $STATE/logs)"
        ((SECONDS < deadline)) || fail "$what: not after $seconds s (logs: $STATE/logs)"
        sleep 0.25
    done
}
