"""A proxy in front of an S3 server, which lets tests make trouble: it delays, refuses, silences, cuts, and alters what
passes, or holds a request until the test releases it.

Requests pass unchanged, with their Host header, so that signatures stay valid: the client's endpoint is the proxy. Each
request is read whole, then the rules are asked in order: the first one that matches and has not been used up acts. Each
connection has a thread. What passed is in `Proxy.log`.
"""

import http.client
import re
import socket
import threading
import time
import urllib.parse
import xml.etree.ElementTree
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PUT, GET, HEAD, LIST, DELETE = "put", "get", "head", "list", "delete"
# Longer than any operation of a broker may take.
SECONDS_MAX = 120
# Headers that belong to one connection.
OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'


@dataclass
class Request:
    """What a client asks for: an operation on a name, without the bucket."""

    operation: str
    name: str
    method: str
    target: str
    headers: list
    body: bytes


@dataclass
class Answer:
    status: int
    reason: str
    headers: list
    body: bytes


class Dropped(Exception):
    """The connection ends without an answer."""


class Rule:
    """What happens to requests of an operation whose name matches: `times` of them, or all."""

    def __init__(self, operation, name="", times=None):
        self.operation, self.name, self.left = operation, re.compile(name), times
        self.used = 0
        self.lock = threading.Lock()

    def takes(self, request):
        """Whether it acts on this request; counts it."""
        if self.operation not in (request.operation, "any") or not self.name.search(request.name):
            return False
        with self.lock:
            if self.left == 0:
                return False
            self.left = None if self.left is None else self.left - 1
            self.used += 1
        return True

    def answer(self, request, forward):
        """The answer to the client. `forward` asks the server."""
        raise NotImplementedError

    def end(self):
        """No request waits for this rule any more."""


class Pass(Rule):
    """Nothing happens to them; later rules are not asked."""

    def answer(self, request, forward):
        return forward(request)


class Delay(Rule):
    def __init__(self, seconds, *of, **how):
        super().__init__(*of, **how)
        self.seconds = seconds

    def answer(self, request, forward):
        time.sleep(self.seconds)
        return forward(request)


class Refuse(Rule):
    """The proxy answers with an error of S3, and the server is not asked."""

    def __init__(self, status, code, *of, **how):
        super().__init__(*of, **how)
        self.status, self.code = status, code

    def answer(self, request, forward):
        body = b"" if request.method == "HEAD" else ERROR.format(code=self.code).encode()
        return Answer(self.status, self.code, [("Content-Type", "application/xml")], body)


class Truncate(Rule):
    """Only the first bytes of the answer arrive, and then the connection ends."""

    def __init__(self, count, *of, **how):
        super().__init__(*of, **how)
        self.count = count

    def answer(self, request, forward):
        answer = forward(request)
        return Answer(answer.status, answer.reason, [*answer.headers, ("Content-Length", str(len(answer.body)))],
                      answer.body[:self.count])


class Corrupt(Rule):
    """One bit of the answer's body changes, in its middle."""

    def answer(self, request, forward):
        answer = forward(request)
        body = bytearray(answer.body)
        if body and answer.status < 300:
            body[len(body) // 2] ^= 1
        return Answer(answer.status, answer.reason, answer.headers, bytes(body))


class DropRequest(Rule):
    """The connection ends, and the server was not asked."""

    def answer(self, request, forward):
        raise Dropped


class DropAnswer(Rule):
    """The server did what was asked, and the connection ends without its answer."""

    def answer(self, request, forward):
        forward(request)
        raise Dropped


class Hold(Rule):
    """They wait until the test releases them: before the server is asked, or with `answered` the server's answers.

    Released is final.
    """

    def __init__(self, *of, answered=False, **how):
        super().__init__(*of, **how)
        self.answered = answered
        self.held, self.changed = [], threading.Condition()
        self.is_open = False
        self.is_dropping = False

    def answer(self, request, forward):
        answer = forward(request) if self.answered else None
        with self.changed:
            self.held.append(request)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.is_open, SECONDS_MAX)
            self.held.remove(request)
            self.changed.notify_all()
            if self.is_dropping:
                raise Dropped
        return answer or forward(request)

    def wait(self, seconds_max, count=1):
        """Waits until so many requests are held; the first of them."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.held) >= count, seconds_max):
                raise AssertionError(f"{len(self.held)} of {count} requests to {self.operation} {self.name.pattern!r} "
                                     f"came in {seconds_max} s")
            return self.held[0]

    def release(self, drop=False):
        """What is held continues, and what comes passes; with `drop`, connections of what is held end."""
        self.left = 0
        with self.changed:
            if not self.is_open:
                self.is_open, self.is_dropping = True, drop
                self.changed.notify_all()
            # Each has seen whether it continues or ends.
            self.changed.wait_for(lambda: not self.held, SECONDS_MAX)

    def end(self):
        self.release(drop=True)


class Silence(Hold):
    """No answer at all, while the rule is there: the server is not asked."""


@dataclass
class Entry:
    """A request in the log. `status` is 0 if the client got no answer."""

    operation: str
    name: str
    status: int
    sent_bytes: int
    received_bytes: int
    time_s: float = field(default_factory=time.monotonic)


class Proxy:
    """Listens on a port of 127.0.0.1. Use it as a context: leaving it ends all connections."""

    def __init__(self, server_address, bucket):
        self.server_address, self.bucket = server_address, bucket
        self.rules, self.log, self.lock = [], [], threading.Lock()
        proxy = self

        class Of(Handler):
            def handle(self):
                self.proxy = proxy
                super().handle()

        self.http = Server(("127.0.0.1", 0), Of)
        self.address = f"127.0.0.1:{self.http.server_address[1]}"
        self.endpoint = f"http://{self.address}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.clear()
        self.http.shutdown()
        self.http.server_close()

    def add(self, rule):
        """The rule is asked after those that are there."""
        with self.lock:
            self.rules.append(rule)
        return rule

    def remove(self, rule):
        with self.lock:
            self.rules.remove(rule)
        rule.end()

    def clear(self):
        """No rules any more; what they hold ends without an answer."""
        with self.lock:
            rules, self.rules = self.rules, []
        for rule in rules:
            rule.end()

    def answer(self, request):
        with self.lock:
            rules = list(self.rules)
        rule = next((rule for rule in rules if rule.takes(request)), None)
        answer, status = None, 0
        try:
            answer = rule.answer(request, self.forward) if rule else self.forward(request)
            status = answer.status
            return answer
        finally:
            received = len(answer.body) if answer else 0
            with self.lock:
                self.log.append(Entry(request.operation, request.name, status, len(request.body), received))

    def forward(self, request):
        """Asks the server on a connection of its own."""
        connection = http.client.HTTPConnection(self.server_address, timeout=SECONDS_MAX)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for key, value in request.headers:
                if key.lower() not in OF_CONNECTION:
                    connection.putheader(key, value)
            if request.body or request.method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in OF_CONNECTION]
            if request.method == "HEAD" and answer.headers.get("Content-Length"):
                headers.append(("Content-Length", answer.headers["Content-Length"]))
            return Answer(answer.status, answer.reason, headers, answer.read())
        except (http.client.HTTPException, OSError):
            raise Dropped from None
        finally:
            connection.close()

    def count(self, operation, name=""):
        """How many requests passed the log."""
        with self.lock:
            return sum(entry.operation == operation and bool(re.search(name, entry.name)) for entry in self.log)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that was killed is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy = None

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def take(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:
            # The client ended before it had sent everything: the server never had it either.
            self.close_connection = True
            return
        operation, name = what(self.command, self.path, body, self.proxy.bucket)
        request = Request(operation, name, self.command, self.path, list(self.headers.items()), body)
        try:
            self.send(request, self.proxy.answer(request))
        except (Dropped, OSError):
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = take

    def send(self, request, answer):
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [f"{key}: {value}" for key, value in answer.headers]
        said = next((int(value) for key, value in answer.headers if key == "Content-Length"), None)
        if said is None:
            lines.append(f"Content-Length: {len(answer.body)}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
        if request.method != "HEAD" and said not in (None, len(answer.body)):
            raise Dropped

    def log_message(self, *_):
        pass


def what(method, target, body, bucket):
    """The operation of a request, and the name that it is about: of a list the folder."""
    path, _, query = target.partition("?")
    query = urllib.parse.parse_qs(query, keep_blank_values=True)
    name = urllib.parse.unquote(path).removeprefix(f"/{bucket}").lstrip("/")
    if method == "POST" and "delete" in query:
        found = xml.etree.ElementTree.fromstring(body)
        return DELETE, "\n".join(one.text or "" for one in found.iter() if one.tag.endswith("Key"))
    if method == "GET" and not name:
        return LIST, query.get("prefix", [""])[0]
    return {"GET": GET, "PUT": PUT, "HEAD": HEAD, "DELETE": DELETE}.get(method, method.lower()), name
