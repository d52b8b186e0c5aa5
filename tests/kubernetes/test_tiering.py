"""Older messages in a bucket: an S3 server by TLS outside of the cluster, which ends and comes back."""

import base64
import os
import signal
import socket
import subprocess
import tarfile
import time
import urllib.parse

import pytest
from harness import ROOT, STATE, api, condition_of, kubectl, read_all, run, send, wait

BUCKET = "older"
SECRET = "0123456789abcdef0123456789abcdef01234567"


class Bucket:
    """versitygw on an address of the control plane, which pods reach. Objects are files in a directory."""

    def __init__(self, directory):
        self.directory, self.process = directory, None
        self.host = urllib.parse.urlsplit(api.base).hostname
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        (directory / "data" / BUCKET).mkdir(parents=True)
        self.make_certificate()

    def make_certificate(self):
        """An authority, and a certificate for the address."""
        ca, tls = self.directory / "ca", self.directory / "tls"
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = self.directory / "names"
        names.write_text(f"subjectAltName=IP:{self.host}\nbasicConstraints=CA:FALSE\n")
        run("openssl", "req", "-x509", *new_key, "-days", "2", "-subj", "/CN=tests of ropewalk", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        run("openssl", "req", *new_key, "-subj", "/CN=s3", "-keyout", f"{tls}.key", "-out", f"{tls}.csr")
        run(
            "openssl", "x509", "-req", "-in", f"{tls}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "2", "-extfile", str(names), "-out", f"{tls}.pem",
        )

    def start(self):
        environment = {**os.environ, "ROOT_ACCESS_KEY": "ropewalk", "ROOT_SECRET_KEY": SECRET}
        certificate = ["--cert", str(self.directory / "tls.pem"), "--key", str(self.directory / "tls.key")]
        with open(self.directory / "log", "a") as log:
            self.process = subprocess.Popen(
                [os.environ["VERSITYGW"], "--quiet", "--port", f"{self.host}:{self.port}", *certificate, "posix", str(self.directory / "data")],
                env=environment, stdout=log, stderr=log,
            )
        wait("the S3 server listens", 20, self.listens)

    def listens(self):
        assert self.process.poll() is None, (self.directory / "log").read_text()[-2000:]
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError as error:
            return False, error
        return True, None

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def objects(self):
        return list((self.directory / "data" / BUCKET).rglob("*.rwo"))


@pytest.fixture
def bucket(tmp_path):
    bucket = Bucket(tmp_path)
    try:
        bucket.start()
        yield bucket
    finally:
        bucket.stop()


def storage(space, bucket):
    """The keys and the authority in the namespace; the spec that names them."""
    encoded = lambda text: base64.b64encode(text.encode()).decode()
    space.create("Secret", "keys", data={"accessKeyId": encoded("ropewalk"), "secretAccessKey": encoded(SECRET)})
    space.create("ConfigMap", "authority", data={"ca.crt": (bucket.directory / "ca.pem").read_text()})
    return {
        "bucket": BUCKET,
        "prefix": space.name,
        "endpoint": f"https://{bucket.host}:{bucket.port}",
        "region": "us-east-1",
        "ca": {"configMapKeyRef": {"name": "authority"}},
        "credentials": {"secret": {"name": "keys"}},
        "uploadMaxAgeSeconds": 1,
    }


def healthy(space, status, seconds=60, reason=None):
    """Waits for the condition. A settled cluster is reconciled once a minute, or when it changes."""
    deadline = time.monotonic() + seconds
    while True:
        space.patch("BrokerCluster", "default", {"metadata": {"annotations": {"tests/seen": str(time.monotonic())}}})
        time.sleep(1)
        found = condition_of(space.get("BrokerCluster", "default"), "TieringHealthy")
        if found and found["status"] == status and reason in (None, found["reason"]):
            return found
        assert time.monotonic() < deadline, found


def test_messages_move_to_a_bucket_that_ends_and_comes_back(space, bucket):
    space.create("BrokerCluster", "default", {"deletionPolicy": "Delete"})
    space.queue(partitions=2)
    bootstrap = space.ready()
    send(bootstrap, "orders", range(50))
    space.patch("BrokerCluster", "default", {"spec": {"objectStorage": storage(space, bucket)}})
    healthy(space, "True")
    (restarts,) = space.events("default", "BrokerRestarted")
    # Settings and keys take effect with one restart. Kubernetes may make the pod again from the template before, if it
    # has not observed the new one yet; then there is a second.
    assert restarts.get("series", {}).get("count", 1) <= 2, restarts
    space.patch("Queue", "orders", {"spec": {"tiering": {"localRetention": {"maxAgeSeconds": 1}}}})
    space.ready()
    send(bootstrap, "orders", range(50, 100))
    wait("objects appear in the bucket", 30, lambda: (bucket.objects(), None))
    found = healthy(space, "True")
    assert space.name in found["message"], found
    status = space.status("default", "BrokerCluster")
    assert status["bucket"] == f"s3://{BUCKET}/{space.name}" and status["dataLossWindowSeconds"] == 61, status

    bucket.stop()
    send(bootstrap, "orders", range(100, 200))
    found = healthy(space, "False", reason="BucketUnavailable")
    assert f"s3://{BUCKET}/{space.name}" in found["message"], found
    send(bootstrap, "orders", range(200, 300))
    assert condition_of(space.get("BrokerCluster", "default"), "Ready")["status"] == "True"
    assert space.events("default", "BucketUnavailable")

    before = len(bucket.objects())
    bucket.start()
    wait("uploads continue", 60, lambda: (len(bucket.objects()) > before, None))
    healthy(space, "True")
    assert sorted(map(int, read_all(bootstrap, "orders"))) == list(range(300))


def test_the_example_is_accepted(space):
    kubectl("apply", "-n", space.name, "--dry-run=server", "-f", str(ROOT / "charts/ropewalk/examples/older-messages-in-a-bucket.yaml"))


def test_a_queue_that_needs_a_bucket_which_is_missing_says_so(space):
    space.queue(tiering={})
    found = space.condition("Queue", "orders", "Ready", status="False", seconds=60, reason="NoObjectStorage")
    assert "objectStorage" in found["message"]


def test_the_image_has_the_certificates_of_public_authorities():
    def files(archive):
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content

    found = []
    with tarfile.open(STATE / "images/broker.tar") as image:
        for _, blob in files(image):
            try:
                with tarfile.open(fileobj=blob) as layer:
                    found += [content.read() for name, content in files(layer) if name == "etc/ssl/certs/ca-certificates.crt"]
            except tarfile.ReadError:
                continue  # It is a manifest, or the configuration.
    assert len(found) == 1 and found[0].count(b"BEGIN CERTIFICATE") > 100
