"""The machine under test: its processors, the disk that holds the data, and its page cache."""

import os
import platform
import re
import resource
import shutil
import time
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SECTOR_BYTES = 512  # The unit of /sys/block/*/stat, whatever the disk's own sector is.
QUIET_BYTES = 1 << 20


def description():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    return f"{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}"


def allow_many_files():
    """Raises the limit of open files, which servers and clients inherit: 10,000 queues have as many files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_gib(directory):
    return shutil.disk_usage(directory).free / 2**30


def busy_seconds():
    """Processor time of the whole machine, interrupts and kernel threads included, waiting and stolen time not."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


def client_seconds():
    """Processor time of all clients that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process_seconds(pid):
    """Processor time of a process so far, user and system."""
    # The name of the program, in brackets, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def drop_page_cache():
    """Removes the clean pages of all files from memory. Needs root."""
    Path("/proc/sys/vm/drop_caches").write_text("1\n")


class Disk:
    """The block device below a directory, or its partition."""

    def __init__(self, directory):
        device = os.stat(directory).st_dev
        self.statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")

    def is_known(self):
        return self.statistics.exists()

    def bytes_read_and_written(self):
        fields = self.statistics.read_text().split()
        return int(fields[2]) * SECTOR_BYTES, int(fields[6]) * SECTOR_BYTES

    def wait_until_quiet(self, seconds_max):
        """Writes everything back, then waits until the disk writes less than 1 MiB in half a second; whether it does."""
        os.sync()
        if not self.is_known():
            return True
        step, end = min(0.5, seconds_max), time.monotonic() + seconds_max
        while time.monotonic() < end:
            _, before = self.bytes_read_and_written()
            time.sleep(step)
            if self.bytes_read_and_written()[1] - before < QUIET_BYTES:
                return True
        return False


class Usage:
    """What a load costs: processor time of the whole machine less the clients', and bytes of the device.

    It begins and ends with a quiet disk, so that write-back is part of the cost of the load that caused it.
    """

    def __init__(self, disk, quiet_seconds, note):
        self.disk, self.quiet_seconds, self.note = disk, quiet_seconds, note
        self.settle()
        self.begin = self.now()

    def settle(self):
        if not self.disk.wait_until_quiet(self.quiet_seconds):
            self.note(f"the disk still wrote {self.quiet_seconds} s after a load: CPU and device bytes are inexact")

    def now(self):
        moved = self.disk.bytes_read_and_written() if self.disk.is_known() else (None, None)
        return (busy_seconds() - client_seconds(), *moved)

    def end(self):
        """Processor seconds, and bytes read from and written to the device (none if it is not known)."""
        self.settle()
        return tuple(None if a is None else b - a for a, b in zip(self.begin, self.now()))
