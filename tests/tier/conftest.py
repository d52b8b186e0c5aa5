"""Fixtures: S3 servers and clusters of brokers. The normal form runs each test with one of the servers, the long form
with both."""

import os
import pathlib
import re
import zlib

import pytest
from harness import Cluster
from stores import SERVERS

BINARY = os.environ["ROPEWALK_BROKER"]
IS_LONG = bool(os.environ.get("LONG"))
# Lines that the run script prints at its end.
NOTES = pathlib.Path(os.environ["NOTES"]) if "NOTES" in os.environ else None


def pytest_xdist_make_scheduler(config, log):
    """Tests of one round of kills run in one process, and each other test wherever there is room. The marks of xdist for
    that have no effect with this version of pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRound(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            of_round = re.search(r"test_kill_points\.py::.*\[(\w+-\w+)-", nodeid)
            return of_round[1] if of_round else nodeid

    return ByRound(config, log)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "waits" not in item.keywords)
    for item in items:
        if "soak" in item.keywords and not IS_LONG:
            item.add_marker(pytest.mark.skip(reason="only in the long form"))


def pytest_generate_tests(metafunc):
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "server_name" in metafunc.fixturenames and not any("server_name" in names for names in given):
        names = sorted(SERVERS)
        if not IS_LONG:
            names = [names[zlib.crc32(metafunc.function.__name__.encode()) % len(names)]]
        metafunc.parametrize("server_name", names)


@pytest.fixture
def note(request):
    """Writes a line that is shown also after a success."""
    def write(text):
        print(text)
        if NOTES is not None:
            with open(NOTES, "a") as notes:
                notes.write(f"{request.node.name}: {text}\n")

    return write


@pytest.fixture
def server(tmp_path, server_name):
    """An S3 server of its own for one test."""
    server = SERVERS[server_name](make(tmp_path / server_name)).start()
    yield server
    server.close()


@pytest.fixture
def start_cluster(tmp_path, server):
    """Starts clusters on the server; `prepare` is called before. After a failure the ends of their logs are shown."""
    started = []

    def start(count=1, settings=None, wait=True, prepare=None, **how):
        cluster = Cluster(BINARY, tmp_path / f"cluster-{len(started)}", server, count, settings, **how)
        if prepare is not None:
            prepare(cluster)
        started.append(cluster)
        return cluster.start(wait)

    yield start
    for cluster in started:
        end(cluster)


def make(directory):
    directory.mkdir(parents=True)
    return directory


def end(cluster):
    """Ends a cluster, and prints the end of its logs, which pytest shows after a failure."""
    cluster.close()
    for member in cluster.members:
        print(f"--- log of broker {member.number}\n{member.log_path.read_text(errors='replace')[-6000:]}")
