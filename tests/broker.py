"""A broker process for tests in Python: starts, stops, kills and restarts it on the same ports.

`tests/broker.sh` is its counterpart for shell scripts.
"""

import json
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request


def free_ports(count):
    """Free ports below the system's ephemeral range, so that no outgoing connection of another program takes one before
    the broker listens on it."""
    first_given = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    held = []
    try:
        while len(held) < count:
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", random.randrange(10_000, max(first_given, 11_000))))
                held.append(one)
            except OSError:
                one.close()
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class Broker:
    """One process on a data directory. All restarts append to the same log file.

    `settings` are `KEY=VALUE` pairs for `--set`. `wrapper` is a command that the broker runs under.
    """

    def __init__(self, binary, data, settings=(), log_path=None):
        self.binary, self.data, self.settings = str(binary), pathlib.Path(data), list(settings)
        self.kafka, self.admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.log_path = pathlib.Path(log_path or f"{self.data}.log")
        self.process, self.obstacles, self.log_begin = None, None, 0

    def start(self, wrapper=(), wait=True, seconds_max=60):
        with open(self.log_path, "ab") as log:
            self.log_begin = log.tell()
            self.process = subprocess.Popen([*wrapper, *self.command()], stdout=log, stderr=log)
        if wait and not self.answers(seconds_max):
            raise AssertionError(f"the broker does not serve: {self.obstacles} {self.log()[-1500:]}")
        return self

    def command(self):
        arguments = ["dev", "--data", str(self.data), "--kafka", self.kafka, "--admin", self.admin]
        for setting in self.settings:
            arguments += ["--set", setting]
        return [self.binary, *arguments]

    def answers(self, seconds_max):
        """Whether `/ready` answers 200 within the time and before the process ends."""
        end = time.monotonic() + seconds_max
        while time.monotonic() < end and self.is_running():
            try:
                urllib.request.urlopen(f"http://{self.admin}/ready", timeout=1).read()
                return True
            except urllib.error.HTTPError as error:
                self.obstacles = error.read().decode()
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.02)
        return False

    def listens(self, seconds_max):
        """Waits until its Kafka port is open, which is before `/ready` answers 200."""
        end = time.monotonic() + seconds_max
        host, _, port = self.kafka.rpartition(":")
        while time.monotonic() < end:
            if not self.is_running():
                raise AssertionError(f"the broker ended with {self.process.poll()}: {self.log()[-1500:]}")
            try:
                socket.create_connection((host, int(port)), 0.2).close()
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError(f"the broker does not open its port in {seconds_max} s")

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, seconds_max=60):
        """Stops it with a signal; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended(seconds_max)

    def kill(self):
        if self.is_running():
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def ended(self, seconds_max):
        """Waits until it ends by itself; the exit code."""
        return self.process.wait(timeout=seconds_max)

    def get(self, path):
        """A JSON document of the admin API."""
        return json.loads(urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10).read())

    def metric(self, name):
        """The value of a metric without labels."""
        text = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5).read().decode()
        return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(name + " ")))

    def log(self):
        """The log of the process that was started last."""
        return self.log_path.read_bytes()[self.log_begin:].decode(errors="replace")
