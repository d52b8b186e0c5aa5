# The keys, certificates and kubeconfigs of the test cluster, valid for a month, below $STATE/pki.
#
# Sourced after cluster.sh.

# certificate NAME SUBJECT [SUBJECT_ALT_NAMES]: NAME.key and NAME.crt, signed by the cluster's authority.
certificate() {
    local name=$1 subject=$2 alt=${3:-}
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" \
        -keyout "$name.key" -out "$name.csr" 2>/dev/null
    openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -days 30 -out "$name.crt" \
        -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s\n' "${alt:+subjectAltName=$alt}") 2>/dev/null
}

# kubeconfig NAME FILE: how the holder of NAME's certificate reaches the API server.
kubeconfig() {
    cat >"$2" <<END_OF_CONFIG
apiVersion: v1
kind: Config
clusters: [{name: ropewalk-test, cluster: {server: "$API", certificate-authority: $STATE/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $STATE/pki/$1.crt, client-key: $STATE/pki/$1.key}}]
contexts: [{name: ropewalk-test, context: {cluster: ropewalk-test, user: $1}}]
current-context: ropewalk-test
END_OF_CONFIG
}

make_certificates() (
    local node
    mkdir -p "$STATE/pki" && cd "$STATE/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=ropewalk-test \
        -keyout ca.key -out ca.crt 2>/dev/null
    openssl ecparam -genkey -name prime256v1 -noout -out service-account.key
    openssl ec -in service-account.key -pubout -out service-account.pub 2>/dev/null
    certificate apiserver /CN=kube-apiserver \
        "IP:127.0.0.1,IP:$CONTROL_IP,IP:$SERVICE_NETWORK.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    certificate admin /O=system:masters/CN=admin
    certificate kube-controller-manager /CN=system:kube-controller-manager
    certificate kube-scheduler /CN=system:kube-scheduler
    certificate kube-proxy /CN=system:kube-proxy
    # A separate user, so that the audit log distinguishes the provisioner's requests from those of a person.
    certificate provisioner /O=system:masters/CN=provisioner
    for node in "${NODES[@]}"; do
        certificate "$node" "/O=system:nodes/CN=system:node:$node" "IP:$(node_ip "$node"),DNS:$node"
        kubeconfig "$node" "$node.kubeconfig"
    done
    for node in kube-controller-manager kube-scheduler kube-proxy provisioner; do kubeconfig "$node" "$node.kubeconfig"; done
    kubeconfig admin "$STATE/admin.kubeconfig"
    chmod 600 "$STATE/admin.kubeconfig"
)
