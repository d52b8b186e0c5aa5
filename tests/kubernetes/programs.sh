# Builds the programs of the test cluster once, into the cache: Kubernetes, Helm, CoreDNS, and the Python of the tests.
#
# Sourced after cluster.sh. The first time takes about ten minutes on two cores, at low priority; later runs use
# the cache.

# The program directory of Kubernetes; its versions are pinned by tools/go.sum.
kubernetes_programs() {
    local key
    key=$(cat "$KUBE"/tools/{go.mod,go.sum,tools.go} | sha256sum | cut -c1-12)
    cached "kubernetes-$KUBERNETES_VERSION-$key" make_kubernetes
}
make_kubernetes() {
    local version=k8s.io/component-base/version programs=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)
    cd "$KUBE/tools" && CGO_ENABLED=0 nice -n 10 go build -mod=readonly -trimpath -o "$1/" \
        -ldflags "-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=34" \
        "${programs[@]/#/k8s.io/kubernetes/cmd/}"
}

helm_program() { printf '%s/helm\n' "$(cached "helm-$HELM_VERSION" go_install "helm.sh/helm/v4/cmd/helm@v$HELM_VERSION")"; }
coredns_program() { printf '%s/coredns\n' "$(cached "coredns-$COREDNS_VERSION" go_install "github.com/coredns/coredns@v$COREDNS_VERSION")"; }
go_install() { CGO_ENABLED=0 GOBIN=$2 nice -n 10 go install -trimpath -ldflags '-s -w' "$1"; }

# The S3 server of the tests.
source "$TESTS/tier/programs.sh"

# What the tests and the provisioner import, and what the client image holds.
test_python() { python_with "$KUBE/requirements.txt"; }

# build_programs: everything that is missing, one line each; sets KUBERNETES, HELM, COREDNS, PYTHON and VERSITYGW.
build_programs() {
    need_packages etcd-server containerd runc containernetworking-plugins iptables conntrack iproute2 buildah busybox-static \
        kcat openssl procps util-linux ca-certificates
    need_commands go cargo python3
    KUBERNETES=$(kubernetes_programs) HELM=$(helm_program) COREDNS=$(coredns_program) PYTHON=$(test_python)
    VERSITYGW=$(versitygw_program)
}
