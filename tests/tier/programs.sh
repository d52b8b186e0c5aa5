# The S3 servers of the tests, built once into the cache.
#
# Sourced after environment.sh.

MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW_VERSION=v1.8.0
# The last version that knows no conditional puts.
GOFAKES3_VERSION=v0.0.0-20240513200200-99de01ee122d

s3_server() { printf '%s/%s\n' "$(cached "$1-$2" make_s3_server "$3@$2")" "$1"; }
make_s3_server() { CGO_ENABLED=0 GOBIN=$2 go install -trimpath -ldflags '-s -w' "$1"; }

minio_program() { s3_server minio "$MINIO_VERSION" github.com/minio/minio; }
versitygw_program() { s3_server versitygw "$VERSITYGW_VERSION" github.com/versity/versitygw/cmd/versitygw; }
gofakes3_program() { s3_server gofakes3 "$GOFAKES3_VERSION" github.com/johannesboyne/gofakes3/cmd/gofakes3; }
