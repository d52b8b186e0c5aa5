"""The proxy of the tests, and the client of S3, against a small server that remembers what it was asked."""

import http.client
import sys
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import proxy  # noqa: E402
import s3  # noqa: E402

CONTENT = bytes(range(256)) * 40
BULK_DELETE = b"<Delete><Object><Key>a/b.rwo</Key></Object></Delete>"


class Bucket(BaseHTTPRequestHandler):
    """Keeps what is put, and answers chunked like some servers do for lists."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path] = body
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        self.answer(b"")

    def do_GET(self):
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        if "list-type" in self.path:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            first = b"<ListBucketResult><Contents><Key>p/n</Key><Size>3</Size></Contents></ListBucketResult>"
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(first), first))
            return
        self.answer(self.server.objects.get(self.path, CONTENT))

    do_HEAD = do_GET

    def do_POST(self):
        self.do_PUT()

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class ProxyTest(unittest.TestCase):
    def setUp(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
        self.server.daemon_threads = True
        self.server.objects, self.server.seen = {}, []
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.proxy = proxy.Proxy(f"127.0.0.1:{self.server.server_address[1]}", "bucket").__enter__()
        self.client = s3.Client(self.proxy.address, "bucket", "me", "secret", "p")

    def tearDown(self):
        self.client.close()
        self.proxy.__exit__()
        self.server.shutdown()
        self.server.server_close()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.proxy.address, timeout=5)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def fails(self, method, path, body=None):
        with self.assertRaises((http.client.HTTPException, OSError)):
            self.ask(method, path, body)

    def test_requests_pass_unchanged_with_the_host_of_the_proxy(self):
        self.client.put("a b.rwo", CONTENT)
        self.assertEqual(self.client.get("a b.rwo"), CONTENT)
        method, path, headers = self.server.seen[0]
        self.assertEqual((method, path), ("PUT", "/bucket/p/a%20b.rwo"))
        self.assertEqual(headers["host"], self.proxy.address)
        self.assertIn("Signature=", headers["authorization"])
        self.assertEqual([(e.operation, e.name, e.status) for e in self.proxy.log],
                         [("put", "p/a b.rwo", 200), ("get", "p/a b.rwo", 200)])
        self.assertEqual((self.proxy.log[0].sent_bytes, self.proxy.log[1].received_bytes), (len(CONTENT),) * 2)

    def test_a_head_keeps_its_length_and_a_chunked_list_arrives(self):
        status, headers, body = self.ask("HEAD", "/bucket/x")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(CONTENT)), b""))
        self.assertEqual(self.client.list(), [s3.Listed("n", 3)])

    def test_operations_have_names(self):
        for method, target, body, expected in (
            ("GET", "/bucket?list-type=2&prefix=c%2Fd", b"", (proxy.LIST, "c/d")),
            ("GET", "/bucket/?prefix=c", b"", (proxy.LIST, "c")),
            ("POST", "/bucket?delete", BULK_DELETE, (proxy.DELETE, "a/b.rwo")),
            ("DELETE", "/bucket/a", b"", (proxy.DELETE, "a")),
            ("HEAD", "/bucket/a/b", b"", (proxy.HEAD, "a/b")),
        ):
            self.assertEqual(proxy.what(method, target, body, "bucket"), expected)

    def test_a_rule_acts_on_its_requests_as_often_as_it_says(self):
        rule = self.proxy.add(proxy.Refuse(503, "SlowDown", "get", r"\.rwo$", times=2))
        self.assertEqual(self.ask("GET", "/bucket/other")[0], 200)
        self.assertEqual(self.ask("HEAD", "/bucket/x.rwo")[0], 200)
        status, _, body = self.ask("GET", "/bucket/x.rwo")
        self.assertEqual(status, 503)
        self.assertIn(b"<Code>SlowDown</Code>", body)
        self.assertEqual([self.ask("GET", "/bucket/x.rwo")[0] for _ in range(2)], [503, 200])
        self.assertEqual((rule.used, self.proxy.count("get", "rwo")), (2, 3))

    def test_the_first_rule_that_matches_acts(self):
        self.proxy.add(proxy.Pass("get", times=1))
        self.proxy.add(proxy.Refuse(500, "InternalError", "any"))
        self.assertEqual([self.ask("GET", "/bucket/x")[0] for _ in range(2)], [200, 500])
        self.proxy.clear()
        self.assertEqual(self.ask("GET", "/bucket/x")[0], 200)

    def test_an_answer_that_is_cut_or_altered(self):
        self.proxy.add(proxy.Truncate(100, "get", times=1))
        self.fails("GET", "/bucket/x")
        self.proxy.add(proxy.Corrupt("get", times=1))
        altered = self.ask("GET", "/bucket/x")[2]
        self.assertEqual(sum(a != b for a, b in zip(altered, CONTENT)), 1)
        self.assertEqual(len(altered), len(CONTENT))

    def test_a_put_whose_answer_is_lost_was_applied_and_a_lost_request_was_not(self):
        self.proxy.add(proxy.DropAnswer("put", times=1))
        self.fails("PUT", "/bucket/x", b"1")
        self.assertEqual(self.server.objects, {"/bucket/x": b"1"})
        self.proxy.add(proxy.DropRequest("put", times=1))
        self.fails("PUT", "/bucket/y", b"1")
        self.assertNotIn("/bucket/y", self.server.objects)
        self.assertEqual([entry.status for entry in self.proxy.log], [0, 0])

    def test_a_held_request_reaches_the_server_when_it_is_released(self):
        for answered in (False, True):
            hold = self.proxy.add(proxy.Hold("put", answered=answered))
            name = f"/bucket/{answered}"
            asked = threading.Thread(target=self.ask, args=("PUT", name, b"1"))
            asked.start()
            self.assertEqual(hold.wait(5).name, str(answered))
            self.assertEqual(name in self.server.objects, answered)
            hold.release()
            asked.join(5)
            self.assertIn(name, self.server.objects)
            self.assertEqual(self.ask("PUT", "/bucket/later", b"1")[0], 200)
            self.proxy.remove(hold)
        with self.assertRaises(AssertionError):
            proxy.Hold("put").wait(0.01)

    def test_what_is_held_and_dropped_never_reaches_the_server(self):
        hold = self.proxy.add(proxy.Silence("put"))
        asked = threading.Thread(target=self.fails, args=("PUT", "/bucket/x", b"1"))
        asked.start()
        hold.wait(5)
        self.proxy.clear()
        asked.join(5)
        self.assertEqual(self.server.objects, {})

    def test_a_delay_and_a_server_that_is_gone(self):
        self.proxy.add(proxy.Delay(0.2, "get"))
        began = time.monotonic()
        self.assertEqual(self.ask("GET", "/bucket/x")[0], 200)
        self.assertGreaterEqual(time.monotonic() - began, 0.2)
        self.server.server_close()
        self.server.shutdown()
        self.fails("PUT", "/bucket/x", b"1")

    def test_a_client_that_ends_in_the_middle_of_a_put_puts_nothing(self):
        connection = http.client.HTTPConnection(self.proxy.address, timeout=5)
        connection.putrequest("PUT", "/bucket/x")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        connection.send(b"half")
        connection.close()
        self.assertEqual(self.ask("GET", "/bucket/y")[0], 200)
        self.assertEqual(self.server.objects, {})
        self.assertEqual(self.proxy.count("put"), 0)


if __name__ == "__main__":
    unittest.main()
