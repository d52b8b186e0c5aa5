"""A proxy that closes the connection after it forwarded every n-th request: the client never gets the answer."""

import contextlib
import socket
import struct
import threading


class CuttingProxy:
    """Listens on a port of its own, forwards whole requests to `upstream`, and closes after each `every`-th."""

    def __init__(self, every, port):
        self.every, self.upstream, self.cuts, self.requests = every, None, 0, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        host, _, port = self.upstream.rpartition(":")
        try:
            server = socket.create_connection((host, int(port)), 5)
        except OSError:
            client.close()
            return
        threading.Thread(target=self.answers, args=(server, client), daemon=True).start()
        with contextlib.suppress(OSError):
            while request := self.request(client):
                server.sendall(request)
                with self.lock:
                    self.requests += 1
                    is_cut = self.requests % self.every == 0
                    self.cuts += is_cut
                if is_cut:
                    # The client's side is closed first, so that no answer reaches it.
                    client.shutdown(socket.SHUT_RDWR)
                    break
        client.close()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def answers(self, server, client):
        with contextlib.suppress(OSError):
            while some := server.recv(1 << 16):
                client.sendall(some)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @staticmethod
    def request(client):
        head = b""
        while len(head) < 4:
            some = client.recv(4 - len(head))
            if not some:
                return b""
            head += some
        left, parts = struct.unpack(">i", head)[0], [head]
        while left:
            some = client.recv(min(left, 1 << 16))
            if not some:
                return b""
            parts.append(some)
            left -= len(some)
        return b"".join(parts)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
