"""Clusters of three brokers under test, in one memory cgroup: Ropewalk, and Apache Kafka in four forms.

A topic has three replicas, and a record is acknowledged when two brokers have it. Between Ropewalk's brokers there is
QUIC with mutual TLS; between Kafka's, TLS over TCP with client authentication, or plain TCP.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import certificates
from broker import free_ports
from brokers import peer_settings, properties
from clients import load
from machine import process_seconds
from servers import RETENTION, Server, java, kafka_command

COUNT = 3
CLUSTER_ID = "bench"
# Entries that a replica which keeps up may lack while producers go on.
LAG_MAX = 8
KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=CLIENTS://{clients},BROKERS://{brokers},CONTROLLER://{controller}
advertised.listeners=CLIENTS://{clients},BROKERS://{brokers}
inter.broker.listener.name=BROKERS
controller.listener.names=CONTROLLER
listener.security.protocol.map=CLIENTS:PLAINTEXT,BROKERS:{protocol},CONTROLLER:{protocol}
log.dirs={data}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
group.initial.rebalance.delay.ms=0
log.segment.delete.delay.ms=1000
{retention}
"""
KAFKA_TLS = """
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
ssl.client.auth=required
ssl.endpoint.identification.algorithm=
"""


class Node:
    """One broker of a cluster."""

    def __init__(self, cluster, number):
        self.cluster, self.number = cluster, number
        self.host = f"127.0.1.{number}"
        self.directory = cluster.directory / f"broker-{number}"
        self.clients, self.brokers, self.other = (f"{self.host}:{port}" for port in free_ports(3))
        self.process = None

    def start(self):
        """Starts the process without waiting until it answers; when, in seconds since 1970."""
        with open(self.directory / "server.log", "a") as log:
            started = time.time()
            command = self.cluster.group.wrap(self.cluster.command_of(self))
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        return started

    def listens(self):
        host, port = self.clients.split(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
            return True
        except OSError:
            return False

    def obituary(self):
        if self.process.poll() is None:
            return None
        log = (self.directory / "server.log").read_text(errors="replace").strip()
        return f"broker {self.number} of {self.cluster.name} ended with code {self.process.returncode}: {log[-500:]}"

    def ask_to_stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait_until_stopped(self, seconds_max=60):
        if not self.process:
            return
        try:
            self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Cluster(Server):
    """Three brokers that a bench treats as one server. `address` lists all of them."""

    is_away = None  # The broker that a scenario has stopped.

    def __init__(self, name, directory, group):
        self.name, self.directory, self.group = name, Path(directory, name), group
        self.nodes = [Node(self, number) for number in range(1, COUNT + 1)]
        self.address = ",".join(node.clients for node in self.nodes)

    def __enter__(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        for node in self.nodes:
            node.directory.mkdir(parents=True)
        self.prepare()
        return self

    def start(self):
        return min([node.start() for node in self.nodes])

    def wait_until_it_listens(self, seconds_max=120):
        self.wait_for(self.nodes, seconds_max)

    def wait_for(self, nodes, seconds_max=120):
        deadline = time.monotonic() + seconds_max
        while not all(node.listens() for node in nodes):
            if self.obituary():
                raise RuntimeError(self.obituary())
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not listen after {seconds_max} s")
            time.sleep(0.02)

    def obituary(self):
        found = [node.obituary() for node in self.nodes if node is not self.is_away]
        return next(filter(None, found), None)

    def stop(self):
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.wait_until_stopped()

    def take_away(self, node):
        """Stops one broker as an operator would. `address` lists only the others until `bring_back`."""
        self.is_away = node
        node.ask_to_stop()
        node.wait_until_stopped()
        self.address = ",".join(other.clients for other in self.nodes if other is not node)

    def bring_back(self):
        """Starts the broker that is away; when its process started."""
        node, self.is_away = self.is_away, None
        return node.start()

    def use_all(self):
        """Lets clients use all brokers again."""
        self.address = ",".join(node.clients for node in self.nodes)

    def wait_until_caught_up(self, topic, partitions, seconds_max=300):
        """Waits until every replica of the topic is in sync; when, in seconds since 1970."""
        return load(self, "in-sync", "--topic", topic, "--partitions", partitions)["unix_s"]

    def pid(self):
        return [node.process.pid for node in self.nodes]

    def cpu_seconds(self):
        """Processor time of the processes so far, user and system."""
        return sum(process_seconds(pid) for pid in self.pid())


def replicas_behind(report):
    """The replicas in an answer to /v1/cluster that lack entries or are not voters, as text. A replica of which no leader
    says anything is among them."""
    found = [(shard["shard"], replica) for shard in report["shards"] for replica in shard["replicas"]]
    behind = [f"shard {shard}: {replica}" for shard, replica in found if not is_caught_up(replica)]
    few = [f"shard {shard['shard']}: {len(shard['replicas'])} replicas" for shard in report["shards"] if len(shard["replicas"]) < COUNT]
    return behind + few


def is_caught_up(replica):
    return bool(replica["votes"]) and replica["lag"] is not None and replica["lag"] <= LAG_MAX


class RopewalkCluster(Cluster):
    is_durable = True

    def prepare(self):
        certificates.make_authority(self.directory)
        token = self.directory / "token"
        token.write_text("a token of the benchmark\n")
        for node in self.nodes:
            certificates.make_certificate(self.directory, node.number, CLUSTER_ID)
            seeds = [other.other for other in self.nodes if other is not node] if node.number != 1 else []
            settings = {
                "log.dirs": node.directory / "data",
                "listeners": f"PLAINTEXT://{node.clients}",
                "ropewalk.admin.listener": node.other,
                "admin.token.file": token,
                "group.initial.rebalance.delay.ms": 0,
                **peer_settings(node.number, node.brokers, self.directory, seeds, CLUSTER_ID),
                **dict([RETENTION.split("=")]),
            }
            (node.directory / "broker.properties").write_text(properties(settings))

    def wait_until_caught_up(self, _topic, _partitions, seconds_max=300):
        """By the reports of the leaders: its Metadata names replicas as in sync that are reached and still catch up."""
        asked = self.nodes[0].other
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                with urllib.request.urlopen(f"http://{asked}/v1/cluster", timeout=5) as answer:
                    behind = replicas_behind(json.load(answer))
            except OSError as error:
                behind = [repr(error)]
            if not behind:
                return time.time()
            if self.obituary():
                raise RuntimeError(self.obituary())
            if time.monotonic() > deadline:
                raise RuntimeError(f"not caught up after {seconds_max} s: {behind[:3]}")
            time.sleep(0.05)

    def command_of(self, node):
        return [os.environ["ROPEWALK_BROKER"], "run", "--config", str(node.directory / "broker.properties")]


class KafkaTls(Cluster):
    is_durable = False
    protocol = "SSL"
    extra = ""

    def prepare(self):
        tool = java("kafka.tools.StorageTool")
        cluster = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
        if self.protocol == "SSL":
            certificates.make_authority(self.directory)
        voters = ",".join(f"{node.number}@{node.other}" for node in self.nodes)
        formats = []
        for node in self.nodes:
            (node.directory / "server.properties").write_text(self.properties(node, voters))
            command = [*tool, "format", "-t", cluster, "-c", "server.properties"]
            formats.append(subprocess.Popen(command, cwd=node.directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        for one in formats:
            _, error = one.communicate(timeout=120)
            if one.returncode:
                raise RuntimeError(f"formatting Kafka's storage: {error.decode(errors='replace')[-500:]}")

    def properties(self, node, voters):
        places = {"clients": node.clients, "brokers": node.brokers, "controller": node.other, "voters": voters}
        about = {"id": node.number, "data": node.directory / "data", "protocol": self.protocol, "retention": RETENTION}
        text = KAFKA_PROPERTIES.format(**places, **about) + self.extra
        if self.protocol == "SSL":
            certificates.make_certificate(self.directory, node.number, CLUSTER_ID)
            parts = [(self.directory / f"broker-{node.number}.{end}").read_text() for end in ("key", "crt")]
            keystore = node.directory / "keystore.pem"
            keystore.write_text("".join(parts))
            text += KAFKA_TLS.format(keystore=keystore, authority=self.directory / "ca.crt")
        return text

    def command_of(self, node):
        return kafka_command(self.group.limit_bytes and self.group.limit_bytes // COUNT)


class KafkaTlsFsync(KafkaTls):
    is_durable = True
    extra = "log.flush.interval.messages=1\n"


class KafkaPlain(KafkaTls):
    protocol = "PLAINTEXT"


class KafkaPlainFsync(KafkaTlsFsync):
    protocol = "PLAINTEXT"


CLUSTERS = {
    "ropewalk": RopewalkCluster,
    "kafka": KafkaTls,
    "kafka-fsync": KafkaTlsFsync,
    "kafka-plain": KafkaPlain,
    "kafka-plain-fsync": KafkaPlainFsync,
}
