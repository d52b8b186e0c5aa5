"""The operator under test, and a namespace for each test."""

import fcntl

import pytest
from harness import ROOT, STATE, SYSTEM, Space, helm, kubectl, note, operator_pods, wait


def install_by_chart(*values):
    helm("install", "ropewalk", str(ROOT / "charts/ropewalk"), "-n", SYSTEM, "--create-namespace", *values)


def operator_ready():
    pods = operator_pods()
    conditions = [c for p in pods for c in p["status"].get("conditions", []) if c["type"] == "Ready"]
    return bool(conditions) and all(c["status"] == "True" for c in conditions), conditions


@pytest.fixture(scope="session")
def operator():
    """Installed by its chart once; `down` removes it. A test that changes it restores it."""
    with open(STATE / "installing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several test processes start at once.
        if not helm("list", "-n", SYSTEM, "-q").strip():
            install_by_chart()
    wait("the operator is ready", 60, operator_ready)


@pytest.fixture
def space(operator, request):
    space = Space().make()
    yield space
    if getattr(request.node, "failed", False):
        describe(space)
    space.delete()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.failed = report.failed


def describe(space):
    """Information for the analysis of a failure."""
    looks = [
        ("get", "queues.ropewalk.dev,brokerclusters.ropewalk.dev,pods,pvc,deployments,events", "-n", space.name, "-o", "wide"),
        ("get", "queues.ropewalk.dev,brokerclusters.ropewalk.dev", "-n", space.name, "-o", "yaml"),
        ("logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--tail=40"),
        ("logs", "-n", space.name, "-l", "ropewalk.dev/cluster", "--tail=15"),
    ]
    for look in looks:
        note(f"--- kubectl {' '.join(look)}\n{kubectl(*look, check=False).stdout[-6000:]}")
