"""From an empty cluster to the first message by the steps of the README, with the time of each step."""

import subprocess

import pytest
from conftest import install_by_chart, operator_ready
from harness import ROOT, SYSTEM, Space, Timings, api, helm, kubectl, wait


def queue_of_the_readme():
    """The manifest that README.md pipes into `kubectl apply`."""
    readme = (ROOT / "README.md").read_text()
    return readme.split("kubectl apply -f - <<EOF\n", 1)[1].split("EOF\n", 1)[0]


def walk(timings, space):
    space.make()
    kubectl("apply", "-n", space.name, "-f", "-", text=queue_of_the_readme())
    timings.step("kubectl apply of the Queue in an empty namespace")
    bootstrap = space.ready()
    timings.step("queue ready, broker made from nothing")
    said = space.run_pod("hello", ["hello.py", bootstrap, "orders", "greeters"])
    assert "received: hello" in said, said
    timings.step("kafka-python in a pod sent and received")
    table = kubectl("get", "queues.ropewalk.dev", "-n", space.name)
    assert {"CLUSTER", "LENGTH", "DELAY", "THROUGHPUT", "CONSUMERS", "READY", "AGE"} <= set(table.split())
    wait("the length is shown", 60, lambda: (space.status().get("length") == 1, space.status()))
    timings.step("length in kubectl get")
    timings.lines.append("  " + kubectl("get", "queues.ropewalk.dev", "-n", space.name).rstrip().replace("\n", "\n  "))


@pytest.mark.first
def test_by_kubectl_apply():
    """`kubectl apply` alone; everything is removed again, so that the chart starts with an empty cluster."""
    timings, space = Timings("kubectl apply:"), Space()
    kubectl("apply", "--server-side", "-f", str(ROOT / "charts/install.yaml"))
    try:
        wait("the operator is ready", 60, operator_ready)
        timings.step("kubectl apply -f charts/install.yaml, operator ready")
        walk(timings, space)
        timings.show()
    finally:
        space.delete()
        wait("the namespace is gone", 90, space.gone)
        kubectl("delete", "-f", str(ROOT / "charts/install.yaml"), "--wait", seconds=180)


@pytest.mark.first
def test_by_chart():
    """`helm install` without values, then the same steps; the operator remains for the other tests."""
    timings, space = Timings("helm install:"), Space()
    install_by_chart()
    wait("the operator is ready", 60, operator_ready)
    timings.step("helm install, operator ready")
    try:
        walk(timings, space)
        timings.show()
    finally:
        space.delete()


def test_helm_test_sends_and_receives_and_leaves_nothing(operator):
    said = helm("test", "ropewalk", "-n", SYSTEM, "--logs", check=False)
    assert isinstance(said, subprocess.CompletedProcess)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "received at offset 0" in said.stdout, said.stdout

    def nothing_left():
        kinds = "queues.ropewalk.dev,brokerclusters.ropewalk.dev,statefulsets,persistentvolumeclaims"
        left = kubectl("get", kinds, "-n", SYSTEM, "-o", "name").split()
        return not left, left

    wait("the test's queue and cluster are gone, volume included", 60, nothing_left)


def test_the_example_can_be_applied_as_it_is(space):
    kubectl("apply", "-n", space.name, "-f", str(ROOT / "charts/ropewalk/examples/queue-with-consumers.yaml"))
    space.ready()
    sent = 500
    space.create(
        "Pod",
        "sender",
        {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": "docker.io/edenhill/kcat:1.7.1",
                    "command": ["busybox", "sh", "-c"],
                    "args": [f"busybox seq {sent} | kcat -P -b default-bootstrap:9092 -t orders"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    )
    pods = lambda: [p["metadata"]["name"] for p in space.list("Pod", selector="app=order-worker")]
    wait("a consumer is woken", 60, lambda: (pods(), space.status()))

    def all_received():
        numbers = set()
        for pod in pods():
            numbers |= set(kubectl("logs", "-n", space.name, pod, check=False).stdout.split())
        return len({str(n) for n in range(1, sent + 1)} - numbers) == 0, len(numbers)

    wait(f"{sent} messages are received", 60, all_received, every=1)
    wait("the consumers scale to zero when the queue is empty", 120, lambda: (space.replicas("order-worker") == 0, space.status()))
