"""Cuts between brokers: packets are dropped where they arrive, so that nobody gets an error.

All brokers are in one network namespace, each at a loopback address of its own. Brokers talk to each other by UDP;
clients use TCP and reach every broker also during a cut.
"""

import subprocess


def rule(action, source, target):
    return ["iptables", "-w", action, "INPUT", "-p", "udp", "-s", source, "-d", target, "-j", "DROP"]


def rule_of_size(action, size_bytes):
    return ["iptables", "-w", action, "INPUT", "-p", "udp", "-m", "length", "--length", f"{size_bytes + 1}:65535",
            "-j", "DROP"]


class Network:
    """The cuts that are in force. Leaving the context ends all of them."""

    def __init__(self, run=None):
        self.run = run or (lambda command: subprocess.run(command, check=True, capture_output=True))
        self.cuts, self.swallowed = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.heal()

    def cut(self, source, target):
        """Packets from `source` no longer reach `target`; those of the other direction do."""
        self.run(rule("-A", source, target))
        self.cuts.append((source, target))

    def cut_both(self, one, other):
        self.cut(one, other)
        self.cut(other, one)

    def swallow(self, size_bytes):
        """UDP packets of more than so many bytes, IP header included, vanish on every path."""
        self.run(rule_of_size("-A", size_bytes))
        self.swallowed.append(size_bytes)

    def heal(self):
        while self.swallowed:
            self.run(rule_of_size("-D", self.swallowed[-1]))
            self.swallowed.pop()
        while self.cuts:
            self.run(rule("-D", *self.cuts[-1]))
            self.cuts.pop()
