"""The disk of one broker: a file system of its own on a loop device, which can be filled, and slowed by the kernel.

The mount ends with the namespace of the test, and the device with the mount. A group of processes of the kernel's block
layer limits the writes per second, so nothing is put between the broker and its files, and the limit changes while the
broker runs. Needs root.
"""

import contextlib
import os
import pathlib
import subprocess

SIZE_BYTES = 4 << 30
# Each durable write of the broker takes about half a second then: the kernel counts two for one.
SLOW_WRITES_PER_S = 4
V1, V2 = pathlib.Path("/sys/fs/cgroup/blkio"), pathlib.Path("/sys/fs/cgroup")


class Disk:
    size_bytes = SIZE_BYTES

    def __init__(self, path, group):
        """It is mounted at the path. The name of the group must be the only one on the machine."""
        self.path, self.image, self.filler = path, path.with_suffix(".image"), path / "filler"
        self.group = (V1 if V1.exists() else V2) / group

    def mount(self):
        """Makes the file system, empty."""
        self.path.mkdir(exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(self.size_bytes)
        run("mkfs.ext4", "-q", "-m", "0", self.image)
        run("mount", "-o", "loop", self.image, self.path)

    def unmount(self):
        """Its processes must have ended."""
        if os.path.ismount(self.path):
            run("umount", self.path)
        self.image.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.group.rmdir()

    def fill(self):
        """A file takes all space that is left."""
        with open(self.filler, "wb") as filler:
            left = os.statvfs(self.path)
            # The file system needs some of it for itself.
            for part in (left.f_bavail * left.f_frsize, 1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, part)

    def free(self):
        self.filler.unlink(missing_ok=True)

    def slow(self, process_id):
        """From now on the process writes at most SLOW_WRITES_PER_S times a second."""
        self.group.mkdir(exist_ok=True)
        (self.group / "cgroup.procs").write_text(str(process_id))
        self.limit(SLOW_WRITES_PER_S)

    def fast(self):
        if self.group.exists():
            self.limit(None)

    def limit(self, writes_per_s):
        file, text = limit_of(os.stat(self.path).st_dev, writes_per_s, self.group.parent == V1)
        (self.group / file).write_text(text)


def limit_of(device, writes_per_s, is_v1):
    """The file of a group, and what is written to it."""
    name = f"{os.major(device)}:{os.minor(device)}"
    if is_v1:
        return "blkio.throttle.write_iops_device", f"{name} {writes_per_s or 0}"
    return "io.max", f"{name} wiops={writes_per_s or 'max'}"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
