"""A memory cgroup for one server: page cache counts, as it does in a pod. Version 1 and version 2.

Where no cgroup can be made, `NoGroup` takes its place and measures the process alone.
"""

import errno
import os
import re
import threading
import time
from pathlib import Path

PREFIX = "ropewalk-bench-"
MIB = 2**20


class CannotMake(Exception):
    """Why no memory cgroup can be made here."""


def find_parent():
    """Where groups can be made: the directory, and the version of its hierarchy. Raises `CannotMake`."""
    causes = []
    own, mounts = (Path("/proc/self", name).read_text() for name in ("cgroup", "mounts"))
    for version, mount, own in hierarchies(own, mounts):
        place = Path(mount, own.lstrip("/"))
        # Version 2 has processes in leaves only, so an ancestor of our own group may be the first that can.
        while place == Path(mount) or Path(mount) in place.parents:
            try:
                probe = make(place, version, "probe")
                probe.rmdir()
                return place, version
            except OSError as error:
                causes.append(f"{place}: {error.strerror}")
            if place == Path(mount):
                break
            place = place.parent
    raise CannotMake("; ".join(causes) or "no memory hierarchy is mounted")


def hierarchies(own_groups, mounts):
    """Version, mount point and own path of each mounted hierarchy that may control memory.

    The arguments are the texts of /proc/self/cgroup and /proc/self/mounts.
    """
    own = {}
    for line in own_groups.splitlines():
        number, controllers, path = line.split(":", 2)
        own["" if number == "0" else controllers] = path
    found = []
    for line in mounts.splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            names = [path for controllers, path in own.items() if "memory" in controllers.split(",")]
            found.append((1, mount, names[0] if names else "/"))
        elif kind == "cgroup2":
            found.append((2, mount, own.get("", "/")))
    return found


def make(parent, version, name):
    """Makes the directory of a group with the memory controller. Raises `OSError`."""
    if version == 2 and "memory" not in Path(parent, "cgroup.subtree_control").read_text().split():
        Path(parent, "cgroup.subtree_control").write_text("+memory")
    path = Path(parent, f"{PREFIX}{os.getpid()}-{name}")
    path.mkdir()
    for name in (limit_file(version), peak_file(version)):
        if not Path(path, name).exists():
            path.rmdir()
            raise OSError(errno.ENOENT, f"no {name}")
    return path


def limit_file(version):
    return "memory.limit_in_bytes" if version == 1 else "memory.max"


def peak_file(version):
    """Version 2 has it since Linux 5.19."""
    return "memory.max_usage_in_bytes" if version == 1 else "memory.peak"


def remove_leftovers(parent):
    """Removes groups of runs that were killed before they could."""
    for path in Path(parent).glob(f"{PREFIX}*"):
        pid = path.name[len(PREFIX) :].split("-")[0]
        if not Path("/proc", pid).exists():
            try:
                path.rmdir()
            except OSError:
                pass  # A server of that run is still alive.


class Group:
    """One group with a limit in bytes, whose directory `make` has made.

    Use it as a context: the directory is removed at the end, whatever happens.
    """

    def __init__(self, path, version, limit_bytes):
        self.path, self.version, self.limit_bytes = path, version, limit_bytes
        try:
            (self.path / limit_file(version)).write_text(str(limit_bytes))
            for swap, value in (("memory.memsw.limit_in_bytes", limit_bytes), ("memory.swap.max", 0)):
                if (self.path / swap).exists():
                    (self.path / swap).write_text(str(value))
        except OSError:
            self.path.rmdir()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                self.path.rmdir()
                return
            except OSError as error:
                # The kernel needs a moment after the last process has ended.
                if time.monotonic() > deadline:
                    raise RuntimeError(f"cannot remove {self.path}: {error}") from None
                time.sleep(0.05)

    def wrap(self, command):
        """The command, started inside the group under the same process id."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    def peak_mib(self, _pid):
        """Most memory that was ever charged, page cache included."""
        return int((self.path / peak_file(self.version)).read_text()) / MIB

    def anonymous_mib(self, _pid):
        """Memory that the kernel cannot take back: no page cache."""
        name = "total_rss" if self.version == 1 else "anon"
        return int(re.search(rf"^{name} (\d+)", (self.path / "memory.stat").read_text(), re.M)[1]) / MIB

    def kills(self):
        """How many processes the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)", (self.path / name).read_text(), re.M)
        return int(found[1]) if found else 0


class NoGroup:
    """The same questions, answered for the process alone; nothing is limited."""

    limit_bytes = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wrap(self, command):
        return list(command)

    def peak_mib(self, pid):
        return process_memory(pid, "VmHWM")

    def anonymous_mib(self, pid):
        return process_memory(pid, "RssAnon")

    def kills(self):
        return 0


def process_memory(pid, field):
    """MiB of a process, or of several together."""
    if isinstance(pid, list):
        return sum(process_memory(one, field) for one in pid)
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


class Watch:
    """The most anonymous memory while a load runs, sampled four times a second. Use it as a context."""

    def __init__(self, group, pid):
        self.group, self.pid, self.most_mib = group, pid, 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def sample(self):
        while True:
            try:
                self.most_mib = max(self.most_mib, self.group.anonymous_mib(self.pid))
            except OSError:
                return  # The server has ended, which its client reports.
            if self.ended.wait(0.25):
                return
