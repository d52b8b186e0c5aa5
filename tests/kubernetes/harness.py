"""Functions that the tests of the operator share: requests to the API server, waiting, Kafka clients, timings.

Tests run on the host under `inside`, so names and addresses of Services work as in a pod. Each test has a
namespace of its own. A wait that times out reports the last state that it read.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import requests
import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

ROOT = Path(__file__).resolve().parents[2]
KUBE = ROOT / "tests/kubernetes"
STATE = Path(os.environ["KUBECONFIG"]).parent
AUDIT_LOG = STATE / "logs/audit.jsonl"
SYSTEM = "ropewalk-system"
GROUP = "ropewalk.dev/v1alpha1"
PLURALS = {"Queue": "queues", "BrokerCluster": "brokerclusters"}


# --- the API server ---------------------------------------------------------------------------------------------


class Api:
    """A JSON client of the API server; much cheaper than one kubectl per request."""

    def __init__(self):
        pki = STATE / "pki"
        self.base = yaml.safe_load((STATE / "admin.kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
        self.session = requests.Session()
        # Ignore proxies and certificate authorities in the environment of this machine.
        self.session.trust_env = False
        self.session.cert = (str(pki / "admin.crt"), str(pki / "admin.key"))
        self.session.verify = str(pki / "ca.crt")

    def request(self, method, path, body=None, kind="application/json"):
        """The answer's object; None for 404. Other errors raise with the server's message."""
        data = None if body is None else json.dumps(body)
        answer = self.session.request(method, self.base + path, data=data, headers={"Content-Type": kind}, timeout=30)
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.json().get("message", answer.text))
        return answer.json()


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


api = Api()


def path_of(version, plural, namespace=None, name=None, sub=None):
    base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    parts = [base] + ([f"namespaces/{namespace}"] if namespace else []) + [plural]
    return "/".join(parts + [part for part in (name, sub) if part])


def run(*command, text=None, seconds=120, check=True):
    """A program's standard output. Raises with its output if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout if check else done


def kubectl(*arguments, text=None, seconds=120, check=True):
    return run("kubectl", *arguments, text=text, seconds=seconds, check=check)


def helm(*arguments, seconds=240, check=True):
    return run("helm", *arguments, seconds=seconds, check=check)


# --- waiting ----------------------------------------------------------------------------------------------------


def wait(what, seconds, look, every=0.2):
    """The first truthy value that `look` returns. It may return (False, STATE), where STATE is for the message."""
    deadline, seen = time.monotonic() + seconds, None
    while True:
        try:
            found = look()
            if isinstance(found, tuple):
                found, seen = found
            if found:
                return found
        except (Refused, requests.RequestException, AssertionError) as error:
            seen = error
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last seen: {seen}"
        time.sleep(every)


def holds(what, seconds, look, every=0.5):
    """Asserts that `look` stays truthy for that long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        found, seen = found if isinstance(found, tuple) else (found, None)
        assert found, f"no longer: {what}; seen: {seen}"
        time.sleep(every)


class Timings:
    """Steps with their times, printed at the end."""

    def __init__(self, title):
        self.title, self.lines, self.began, self.last = title, [], time.monotonic(), time.monotonic()

    def step(self, name):
        now = time.monotonic()
        self.lines.append(f"  {name:<58} {now - self.last:6.1f} s")
        self.last = now

    def show(self):
        note("\n".join([self.title, *self.lines, f"  {'together':<58} {self.last - self.began:6.1f} s"]))


def note(text):
    """Writes to the section's output, also when the test passes."""
    with open(os.environ.get("NOTES", "/dev/stderr"), "a") as out:
        out.write(text + "\n")


# --- a namespace of a test --------------------------------------------------------------------------------------


class Space:
    """A namespace, and operations of a test in it."""

    made = 0

    def __init__(self, name=None):
        Space.made += 1
        self.name = name or f"t{os.getpid() % 10000}-{Space.made}"

    def make(self):
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "ropewalk.dev/test": "true"}
        body = {"metadata": {"name": self.name, "labels": labels}}
        api.request("POST", "/api/v1/namespaces", body)
        return self

    def delete(self):
        api.request("DELETE", f"/api/v1/namespaces/{self.name}")

    def gone(self):
        return api.request("GET", f"/api/v1/namespaces/{self.name}") is None

    # Objects.

    def get(self, kind, name, version=None):
        version, plural = resource(kind, version)
        return api.request("GET", path_of(version, plural, self.name, name))

    def list(self, kind, version=None, selector=None):
        version, plural = resource(kind, version)
        query = f"?labelSelector={selector}" if selector else ""
        return api.request("GET", path_of(version, plural, self.name) + query)["items"]

    def create(self, kind, name, spec=None, version=None, **more):
        version, plural = resource(kind, version)
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}
        if spec is not None:
            body["spec"] = spec
        return api.request("POST", path_of(version, plural, self.name), body)

    def patch(self, kind, name, change, version=None, sub=None):
        version, plural = resource(kind, version)
        return api.request("PATCH", path_of(version, plural, self.name, name, sub), change, "application/merge-patch+json")

    def remove(self, kind, name, version=None):
        version, plural = resource(kind, version)
        return api.request("DELETE", path_of(version, plural, self.name, name))

    # Queues.

    def queue(self, name="orders", **spec):
        return self.create("Queue", name, spec)

    def condition(self, kind, name, condition, status="True", seconds=60, reason=None):
        """Waits for a condition; its message."""

        def look():
            found = condition_of(self.get(kind, name), condition)
            right = found and found["status"] == status and (reason is None or found["reason"] == reason)
            return (found, None) if right else (False, found or (self.get(kind, name) or {}).get("status"))

        return wait(f"{kind} {self.name}/{name}: {condition}={status} {reason or ''}", seconds, look)

    def ready(self, name="orders", seconds=90):
        """Waits until the queue is ready; where clients connect."""
        self.condition("Queue", name, "Ready", seconds=seconds)
        return self.get("Queue", name)["status"]["bootstrapServers"]

    def status(self, name="orders", kind="Queue"):
        return (self.get(kind, name) or {}).get("status", {})

    def events(self, name, reason=None):
        items = api.request("GET", path_of("events.k8s.io/v1", "events", self.name))["items"]
        found = [e for e in items if e.get("regarding", {}).get("name") == name]
        return [e for e in found if reason is None or e["reason"] == reason]

    # Workloads.

    def worker(self, name, topic, group, bootstrap, rate=0, replicas=None, image="localhost/ropewalk-test-client:1", **environment):
        """A Deployment of consumers (client/worker.py); without `replicas`, as one that the operator scales."""
        environment = {"BOOTSTRAP": bootstrap, "TOPIC": topic, "GROUP": group, "RATE": str(rate), **environment}
        spec = {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(image, ["worker.py"], environment)},
        }
        if replicas is not None:
            spec["replicas"] = replicas
        return self.create("Deployment", name, spec)

    def replicas(self, name):
        return self.get("Deployment", name)["spec"].get("replicas")

    def pods(self, selector=None):
        return [p for p in self.list("Pod", selector=selector) if not p["metadata"].get("deletionTimestamp")]

    def run_pod(self, name, arguments, seconds=60, image="localhost/ropewalk-test-client:1"):
        """Runs a program of the client image in a pod to its end; its log."""
        self.create("Pod", name, {**pod_spec(image, arguments, {}), "restartPolicy": "Never"})

        def ended():
            phase = self.get("Pod", name)["status"].get("phase")
            return phase in ("Succeeded", "Failed"), phase

        wait(f"pod {name} ends", seconds, ended)
        log = kubectl("logs", "-n", self.name, name)
        assert self.get("Pod", name)["status"]["phase"] == "Succeeded", log
        return log

    def broker_pod(self, cluster="default"):
        pods = self.pods(f"ropewalk.dev/cluster={cluster},ropewalk.dev/broker-id")
        return pods[0] if pods else None


def resource(kind, version=None):
    known = {
        "Queue": (GROUP, "queues"),
        "BrokerCluster": (GROUP, "brokerclusters"),
        "Deployment": ("apps/v1", "deployments"),
        "StatefulSet": ("apps/v1", "statefulsets"),
        "Pod": ("v1", "pods"),
        "Service": ("v1", "services"),
        "Secret": ("v1", "secrets"),
        "ConfigMap": ("v1", "configmaps"),
        "ResourceQuota": ("v1", "resourcequotas"),
        "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
        "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
        "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
        "Lease": ("coordination.k8s.io/v1", "leases"),
    }
    found, plural = known[kind]
    return version or found, plural


def condition_of(thing, condition):
    conditions = ((thing or {}).get("status") or {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == condition), None)


def pod_spec(image, arguments, environment):
    return {
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "args": arguments,
                "env": [{"name": name, "value": str(value)} for name, value in environment.items()],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }


# --- the operator -----------------------------------------------------------------------------------------------


def operator_pods():
    items = api.request("GET", f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component=operator")["items"]
    return [p for p in items if not p["metadata"].get("deletionTimestamp")]


def scale_operator(replicas):
    """Waits until this many pods run; with zero, until no pod is left."""
    path = path_of("apps/v1", "deployments", SYSTEM, "ropewalk-operator")
    api.request("PATCH", path + "/scale", {"spec": {"replicas": replicas}}, "application/merge-patch+json")

    def settled():
        everything = api.request("GET", f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component=operator")["items"]
        ready = [p for p in everything if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
        return len(everything) == replicas == len(ready), [p["metadata"]["name"] for p in everything]

    wait(f"{replicas} operators", 60, settled)


@contextlib.contextmanager
def operator_down():
    scale_operator(0)
    try:
        yield
    finally:
        scale_operator(1)


def operator_log(since="10m"):
    """The log lines of every operator pod, as objects."""
    lines = []
    for pod in operator_pods():
        text = kubectl("logs", "-n", SYSTEM, pod["metadata"]["name"], f"--since={since}", check=False).stdout
        lines += [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return lines


class Audit:
    """The operator's requests to the API server from now on."""

    def __init__(self):
        self.offset = AUDIT_LOG.stat().st_size
        self.began = time.monotonic()

    def entries(self):
        with AUDIT_LOG.open() as log:
            log.seek(self.offset)
            lines = [json.loads(line) for line in log if line.endswith("\n")]
        return [e for e in lines if e["user"]["username"].startswith(f"system:serviceaccount:{SYSTEM}:") and e["stage"] != "RequestReceived"]

    def writes(self, space, but=("leases", "events")):
        """Writes in a namespace, without renewals of the Lease and without Events."""
        verbs = ("create", "update", "patch", "delete", "deletecollection")
        return [
            {"verb": e["verb"], "uri": e["requestURI"].split("?")[0], "status": e["objectRef"].get("subresource") == "status", "body": e.get("requestObject")}
            for e in self.entries()
            if e["verb"] in verbs
            and e.get("objectRef", {}).get("namespace") == space.name
            and e["objectRef"].get("resource") not in but
        ]

    def per_minute(self):
        return 60 * len(self.entries()) / (time.monotonic() - self.began)


# --- Kafka clients ----------------------------------------------------------------------------------------------


class Load:
    """A producer of ids that records the acknowledged ones; `lost(seen)` returns those that are missing."""

    def __init__(self, bootstrap, topic, per_second, keys=None):
        self.bootstrap, self.topic, self.per_second, self.keys = bootstrap, topic, per_second, keys
        self.acked, self.errors, self.sent = set(), [], 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        self.thread.join(150)
        assert not self.thread.is_alive(), "the producer does not end"

    def work(self):
        # Settings of a typical application; the rest are the client's defaults.
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", retries=1000, delivery_timeout_ms=120_000, linger_ms=5,
            request_timeout_ms=10_000, max_block_ms=120_000,
        )
        began = time.monotonic()
        while not self.stopping.is_set():
            due = int((time.monotonic() - began) * self.per_second)
            while self.sent < due and not self.stopping.is_set():
                self.send(producer, self.sent)
                self.sent += 1
            time.sleep(0.01)
        producer.flush(120)
        producer.close(10)

    def send(self, producer, number):
        key = None if self.keys is None else self.keys(number)
        try:
            future = producer.send(self.topic, str(number).encode(), key=key)
        except Exception as error:  # An error of the client counts as well.
            self.errors.append(repr(error))
            return
        future.add_callback(lambda _: self.acked.add(number))
        future.add_errback(lambda error: self.errors.append(repr(error)))


def reachable(bootstrap, seconds=60):
    """Waits until the nodes route an address to the current pod: packets to the previous one are lost."""
    host, port = bootstrap.rsplit(":", 1)

    def connects():
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError as error:
            return False, error
        return True, None

    wait(f"{bootstrap} can be reached", seconds, connects)
    return bootstrap


def send(bootstrap, topic, values):
    producer = KafkaProducer(bootstrap_servers=reachable(bootstrap), acks="all")
    for future in [producer.send(topic, str(v).encode()) for v in values]:
        future.get(timeout=60)
    producer.close()


def read_until(bootstrap, topic, enough, seconds):
    """The values of a topic from its start, until they are enough or the time is over."""
    consumer = KafkaConsumer(topic, bootstrap_servers=reachable(bootstrap), auto_offset_reset="earliest", group_id=None)
    values, deadline = [], time.monotonic() + seconds
    while not enough(values) and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500).values():
            values += [r.value.decode() for r in records]
    consumer.close()
    return values


def read_all(bootstrap, topic):
    """Every value that a topic holds at this moment, read without a group."""
    consumer = KafkaConsumer(bootstrap_servers=reachable(bootstrap), group_id=None, enable_auto_commit=False)
    numbers = wait(f"{topic} is there", 60, lambda: (consumer.partitions_for_topic(topic), None))
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends, values, deadline = consumer.end_offsets(partitions), [], time.monotonic() + 120
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        assert time.monotonic() < deadline, f"{topic} could not be read to its end: {len(values)} values"
        for records in consumer.poll(timeout_ms=500).values():
            values += [r.value.decode() for r in records]
    consumer.close()
    return values
