# Builds the images of the test cluster without a Docker daemon, and puts them on its nodes.
#
# Sourced after cluster.sh and programs.sh. Images that do not change are archives in the cache; the operator's and
# the broker's are built each time, from static binaries and the Dockerfiles that users build with Docker.

# image_archive DIRECTORY NAME FILE [OPTION…]: builds the Dockerfile of a directory into an OCI archive.
image_archive() (
    local directory=$1 name=$2 file=$3 storage buildah
    shift 3
    storage=$(mktemp -d) && trap 'rm -rf "$storage"' EXIT
    buildah=(buildah --root "$storage/root" --runroot "$storage/run" --storage-driver vfs)
    "${buildah[@]}" bud -q --isolation chroot -t "$name" "$@" "$directory" >/dev/null &&
        rm -f "$file" && "${buildah[@]}" push -q "$name" "oci-archive:$file:$name"
)

# programs_with_libraries DIRECTORY FILE…: copies programs and what they are linked to, at the same paths.
programs_with_libraries() {
    local directory=$1
    shift
    { printf '%s\n' "$@"; ldd "$@" 2>/dev/null | grep -o '/[^ :]*'; } | sort -u | while read -r file; do
        install -D "$(readlink -f "$file")" "$directory$file"
    done
    install -d -m 1777 "$directory/tmp"
}

make_pause() {
    printf 'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "sleep", "2147483647"]\n' >"$1/Dockerfile"
    cp "$(command -v busybox)" "$1/" && image_archive "$1" localhost/ropewalk-test-pause:1 "$1/image.tar"
}

make_coredns_image() {
    printf 'FROM scratch\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n' >"$2/Dockerfile"
    cp "$1" "$2/" && image_archive "$2" localhost/ropewalk-test-coredns:1 "$2/image.tar"
}

# The program of the image that charts/ropewalk/examples names, from Debian: nodes here reach no registry.
make_kcat() {
    programs_with_libraries "$1/root" "$(command -v kcat)" "$(command -v busybox)"
    printf 'FROM scratch\nCOPY root /\nENTRYPOINT ["kcat"]\nENV PATH=/usr/bin:/bin\n' >"$1/Dockerfile"
    image_archive "$1" docker.io/edenhill/kcat:1.7.1 "$1/image.tar"
}

# Python of this machine, kafka-python, and the programs of client/.
make_client() {
    local python=$1 directory=$2 prefix library
    prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
    library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    mkdir -p "$directory/root$library" "$directory/root/app" &&
        tar -C "$library" -cf - --exclude=site-packages --exclude=dist-packages --exclude=test --exclude=idlelib \
            --exclude='config-*' --exclude=__pycache__ . | tar -C "$directory/root$library" -xf - &&
        cp -r "$("$python" -c 'import kafka; print(kafka.__path__[0])')" "$directory/root/app/kafka" &&
        cp "$KUBE"/client/*.py "$directory/root/app/" || return 1
    programs_with_libraries "$directory/root" "$(readlink -f "$python")" "$library"/lib-dynload/*.so
    cat >"$directory/Dockerfile" <<END_OF_FILE
FROM scratch
COPY root /
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=$prefix/lib
WORKDIR /app
USER 65534:65534
ENTRYPOINT ["$(readlink -f "$python")"]
END_OF_FILE
    image_archive "$directory" localhost/ropewalk-test-client:1 "$directory/image.tar"
}

# The archives that every cluster needs, one a line.
fixed_images() {
    local key
    key=$(cat "$KUBE"/client/*.py "$KUBE/images.sh" | sha256sum | cut -c1-12)
    printf '%s/image.tar\n' \
        "$(cached "image-pause-1" make_pause)" \
        "$(cached "image-coredns-$COREDNS_VERSION" make_coredns_image "$COREDNS")" \
        "$(cached "image-kcat-1" make_kcat)" \
        "$(cached "image-client-$key-$(basename "$(dirname "$(dirname "$PYTHON")")")" make_client "$PYTHON")"
}

# product_version: the tag that the chart expects when no value names another.
product_version() { sed -n 's/^appVersion: "\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$ROOT/charts/ropewalk/Chart.yaml"; }

# product_images: the archives of the operator's and the broker's image, one a line.
product_images() {
    local binary part context
    mkdir -p "$STATE/images"
    for part in broker operator; do
        binary=$(released "ropewalk-$part") || return 1
        context=$(mktemp -d)
        ln "$binary" "$context/" 2>/dev/null || cp "$binary" "$context/"
        [[ $part != broker ]] || cp /etc/ssl/certs/ca-certificates.crt "$context/"
        image_archive "$context" "localhost/ropewalk-$part:$(product_version)" "$STATE/images/$part.tar" \
            --target prebuilt -f "$ROOT/$part/Dockerfile" >&2 || fail "building the image of the $part"
        rm -r "$context"
        printf '%s\n' "$STATE/images/$part.tar"
    done
}

# load_images ARCHIVE…: loads them onto all nodes in parallel.
load_images() {
    local node loading=() pid
    for node in "${NODES[@]}"; do
        load_on "$node" "$@" &
        loading+=($!)
    done
    for pid in "${loading[@]}"; do wait "$pid" || fail "loading images"; done
}
load_on() {
    local node=$1 archive
    shift
    for archive in "$@"; do ctr -a "$(containerd_socket "$node")" -n k8s.io images import "$archive" >/dev/null || return 1; done
}
