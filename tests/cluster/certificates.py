"""Throw-away certificates of brokers: one authority, and for each broker a certificate that names it.

The names are those of broker/peer/src/name.rs.
"""

import string
import subprocess

DAYS = "2"
LABEL_CHARACTERS = set(string.ascii_lowercase + string.digits + "-")


def name_of(broker, cluster_id):
    return f"broker-{broker}.{label(cluster_id)}.ropewalk"


def label(cluster_id):
    """The cluster id as a label of a DNS name."""
    is_label = set(cluster_id) <= LABEL_CHARACTERS and not cluster_id.startswith("-") and not cluster_id.endswith("-")
    if 0 < len(cluster_id) <= 63 and is_label and not cluster_id.startswith("x-"):
        return cluster_id
    return "x-" + cluster_id.encode().hex()


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {' '.join(map(str, arguments))}: {done.stderr}")


def make_authority(directory):
    """Writes ca.crt and ca.key."""
    key = directory / "ca.key"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    openssl("req", "-x509", "-new", "-key", key, "-days", DAYS, "-subj", "/CN=ropewalk test", "-out",
            directory / "ca.crt", "-addext", "keyUsage=critical,keyCertSign")


def make_certificate(directory, broker, cluster_id):
    """Writes broker-ID.crt and broker-ID.key, signed by the authority in the directory."""
    name = name_of(broker, cluster_id)
    key, request, certificate = (directory / f"broker-{broker}.{end}" for end in ("key", "csr", "crt"))
    extensions = directory / f"broker-{broker}.ext"
    extensions.write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"
                          "extendedKeyUsage=serverAuth,clientAuth\n")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    # A subject has at most 64 characters, and the name may be longer.
    openssl("req", "-new", "-key", key, "-subj", f"/CN=broker-{broker}", "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key",
            "-set_serial", broker + 1, "-days", DAYS, "-extfile", extensions, "-out", certificate)
