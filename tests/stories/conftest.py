"""Fixtures for all stories: a broker per test, and the client programs that are not in Python."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from broker import Broker  # noqa: E402

BINARY = os.environ["ROPEWALK_BROKER"]


@pytest.fixture
def make_broker(tmp_path):
    """Starts brokers and stops them after the test. A failed test prints the end of their logs."""
    made = []

    def make(settings=(), **how):
        settings = ["group.initial.rebalance.delay.ms=0", *settings]
        broker = Broker(BINARY, tmp_path / f"data-{len(made)}", settings)
        made.append(broker)
        return broker.start(**how)

    yield make
    for broker in made:
        broker.kill()
        print(f"--- log of {broker.data.name}\n{broker.log()[-4000:]}")


@pytest.fixture
def broker(make_broker):
    return make_broker()


class Program:
    """A client in another language: one process that prints JSON lines."""

    def __init__(self, command, log_path):
        self.lines, self.log_path = [], log_path
        self.output = open(log_path, "w+")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=self.output, stderr=subprocess.STDOUT)

    def printed(self):
        """The JSON lines so far; other lines are from the client's logger."""
        text = self.log_path.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for(self, matches, seconds_max):
        """The first line that `matches`; fails if it is not printed in time or the program ends before."""
        end = time.monotonic() + seconds_max
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            for line in self.printed():
                if matches(line):
                    return line
            if ended:
                break
            time.sleep(0.05)
        raise AssertionError(f"not printed within {seconds_max} s: {self.log_path.read_text()[-2000:]}")

    def ended(self, seconds_max):
        """All lines, after the program has ended with exit code 0."""
        code = self.process.wait(timeout=seconds_max)
        assert code == 0, f"exit code {code}: {self.log_path.read_text()[-2000:]}"
        return self.printed()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


@pytest.fixture
def program(tmp_path):
    """Starts programs and stops them after the test."""
    started = []

    def start(*command):
        one = Program(command, tmp_path / f"program-{len(started)}.log")
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        print(f"--- {one.log_path.name}\n{one.log_path.read_text()[-3000:]}")


@pytest.fixture
def java(program):
    """Starts one of the Java programs beside this file."""

    def start(name, *arguments):
        return program("java", "-Xmx256M", "-cp", os.environ["STORIES_CLASSPATH"], name, *arguments)

    return start


@pytest.fixture
def go(program):
    """Starts the Go program with one of its commands."""
    return lambda *arguments: program(os.environ["STORIES_GO"], *arguments)


@pytest.fixture
def node(program):
    """Starts the KafkaJS program."""
    return lambda *arguments: program("node", os.environ["STORIES_NODE"], *arguments)
