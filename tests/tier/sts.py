"""A security token service by TLS, as web identities need: it exchanges the token TOKEN of the role ROLE for keys that
expire after some seconds, and refuses all other requests.

    sts.py PORT CERTIFICATE KEY DIRECTORY

DIRECTORY has the files `token`, `access` and `secret`. Each exchange is a line on standard output.
"""

import datetime
import http.server
import pathlib
import ssl
import sys
import urllib.parse

ROLE = "arn:aws:iam::123456789012:role/ropewalk-tests"
# The client asks for new keys when less than five minutes are left.
EXPIRES = datetime.timedelta(seconds=301)

ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>
<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>{expires}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


class Sts(http.server.BaseHTTPRequestHandler):
    directory = pathlib.Path()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query) + urllib.parse.parse_qsl(body))
        token, access, secret = ((self.directory / name).read_text().strip() for name in ("token", "access", "secret"))
        expected = {"Action": "AssumeRoleWithWebIdentity", "RoleArn": ROLE, "WebIdentityToken": token}
        if any(query.get(key) != value for key, value in expected.items()):
            self.answer(403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>")
            return
        expires = (datetime.datetime.now(datetime.timezone.utc) + EXPIRES).strftime("%Y-%m-%dT%H:%M:%SZ")
        print("exchanged", flush=True)
        self.answer(200, ANSWER.format(access=access, secret=secret, expires=expires))

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


port, certificate, key, directory = sys.argv[1:]
Sts.directory = pathlib.Path(directory)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Sts)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
