"""Runs load clients: to their end, or beside another load. A client that fails raises `Failed`."""

import json
import os
import subprocess

SECONDS_MAX = 900
LOAD = os.environ.get("ROPEWALK_LOAD", "")


class Failed(Exception):
    """Why a client has no result."""


class NotPossible(Failed):
    """What this machine does not allow; no fault of a server."""


def run(command, seconds_max=SECONDS_MAX):
    """The standard output of a command."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max)
    except subprocess.TimeoutExpired:
        raise Failed(f"{shown(command)}: not done after {seconds_max} s") from None
    return output(command, ended.returncode, ended.stdout, ended.stderr)


def output(command, code, out, err):
    if code:
        raise Failed(f"{shown(command)}: exit code {code}: {(out + err).strip()[-600:]}")
    return out


def shown(command):
    return " ".join(map(str, command[1:]))[-200:]


def load_command(server, arguments):
    return [LOAD, "--bootstrap", server.address, *map(str, arguments)]


def load(server, *arguments):
    """What the native client measured."""
    return json.loads(run(load_command(server, arguments)))


def measure(*arguments):
    """What the native client measures without a server."""
    return json.loads(run([LOAD, *map(str, arguments)]))


def java_tool(name, server, *arguments):
    """What one of Kafka's own tools prints."""
    java = ["java", "-Xmx512M", "-Dlog4j2.level=OFF", "-cp", os.environ["KAFKA_LIBS"] + "/*", f"org.apache.kafka.tools.{name}"]
    return run([*java, "--bootstrap-server", server.address, *map(str, arguments)])


class Background:
    """A native client that runs beside other loads. Use it as a context: it is ended when the context is left."""

    def __init__(self, server, *arguments):
        self.command = load_command(server, arguments)

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def is_running(self):
        return self.process.poll() is None

    def result(self):
        try:
            out, err = self.process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failed(f"{shown(self.command)}: not done after {SECONDS_MAX} s") from None
        return json.loads(output(self.command, self.process.returncode, out, err))
