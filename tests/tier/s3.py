"""A plain client of S3 for tests and benchmarks: signed requests over one connection, and nothing else."""

import datetime
import hashlib
import hmac
import http.client
import urllib.parse
import xml.etree.ElementTree
from dataclasses import dataclass

REGION, SERVICE = "us-east-1", "s3"
SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
SECONDS_MAX = 60


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, said):
        super().__init__(f"status {status}: {said[:300]!r}")
        self.status = status


@dataclass(frozen=True)
class Listed:
    """An object in a list."""

    name: str
    size_bytes: int


class Client:
    """One connection to one bucket at HOST:PORT. Not for several threads at a time."""

    def __init__(self, address, bucket, access, secret, prefix=""):
        self.address, self.bucket, self.access, self.secret = address, bucket, access, secret
        # With a slash at the end, or empty.
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.connection = None

    def within(self, prefix):
        """A client of its own for the names below a prefix."""
        return Client(self.address, self.bucket, self.access, self.secret, prefix)

    def put(self, name, content):
        self.request("PUT", name, body=content)

    def get(self, name, begin=0, end=None):
        """The content, or its bytes from `begin` until before `end`."""
        ranged = {"range": f"bytes={begin}-{end - 1}"} if end is not None else {}
        return self.request("GET", name, headers=ranged)

    def delete(self, name):
        self.request("DELETE", name)

    def list(self, folder=""):
        """All objects whose names begin with the prefix and `folder`, in the order of their names."""
        found, token = [], None
        while True:
            query = {"list-type": "2", "prefix": self.prefix + folder}
            if token:
                query["continuation-token"] = token
            answer = xml.etree.ElementTree.fromstring(self.request("GET", None, query=query))
            space = SPACE if answer.tag.startswith(SPACE) else ""
            for one in answer.iter(f"{space}Contents"):
                name, size = one.findtext(f"{space}Key"), int(one.findtext(f"{space}Size"))
                found.append(Listed(name[len(self.prefix):], size))
            token = answer.findtext(f"{space}NextContinuationToken")
            if not token:
                return found

    def names(self, folder="", suffix=""):
        return [one.name for one in self.list(folder) if one.name.endswith(suffix)]

    def request(self, method, name, query=None, headers=None, body=b""):
        """The body of the answer. A name of None is the bucket itself."""
        path = urllib.parse.quote(f"/{self.bucket}" + ("" if name is None else f"/{self.prefix}{name}"))
        pairs = sorted((query or {}).items())
        text = "&".join(f"{quote(key)}={quote(value)}" for key, value in pairs)
        signed = self.signed(method, path, text, {"host": self.address, **(headers or {})}, body)
        target = f"{path}?{text}" if text else path
        for is_second in (False, True):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
            try:
                self.connection.request(method, target, body=body or None, headers=signed)
                answer = self.connection.getresponse()
                content = answer.read()
                break
            except (http.client.HTTPException, OSError):
                # A server may end a connection that was idle.
                self.close()
                if is_second:
                    raise
        if answer.status >= 300:
            raise Refused(answer.status, content)
        return content

    def signed(self, method, path, query, headers, body):
        """The headers with a signature of version 4."""
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(body).hexdigest()
        headers = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": digest}
        names = ";".join(sorted(headers))
        shown = "".join(f"{key}:{headers[key].strip()}\n" for key in sorted(headers))
        asked = "\n".join([method, path, query, shown, names, digest])
        scope = f"{day}/{REGION}/{SERVICE}/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(asked.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in (day, REGION, SERVICE, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}"
        return {**headers, "authorization": f"{credential}, SignedHeaders={names}, Signature={signature}"}

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def quote(text):
    return urllib.parse.quote(text, safe="-_.~")
