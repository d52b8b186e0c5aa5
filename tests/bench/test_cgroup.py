"""Unit tests of cgroup.py for both versions; a machine has only one of them."""

import tempfile
import unittest
from pathlib import Path

import cgroup

MIB = 2**20


class Hierarchies(unittest.TestCase):
    def test_version_1_has_a_mount_for_memory(self):
        own = "4:memory:/pod/a\n1:cpu:/\n0::/b\n"
        mounts = "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu cgroup rw,cpu 0 0\n"
        self.assertEqual(cgroup.hierarchies(own, mounts), [(1, "/c/memory", "/pod/a")])

    def test_version_2_has_one_mount(self):
        mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\nproc /proc proc rw 0 0\n"
        self.assertEqual(cgroup.hierarchies("0::/user.slice/me\n", mounts), [(2, "/sys/fs/cgroup", "/user.slice/me")])


class Groups(unittest.TestCase):
    def group(self, version, files):
        path = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, text in files.items():
            (path / name).write_text(text)
        return cgroup.Group(path, version, 512 * MIB)

    def test_version_1(self):
        group = self.group(1, {
            "memory.limit_in_bytes": "", "memory.memsw.limit_in_bytes": "", "memory.max_usage_in_bytes": f"{7 * MIB}\n",
            "memory.stat": f"rss 1\ntotal_rss {3 * MIB}\n", "memory.oom_control": "under_oom 0\noom_kill 2\n",
        })  # fmt: skip
        self.assertEqual((group.path / "memory.memsw.limit_in_bytes").read_text(), str(512 * MIB))
        self.assertEqual((group.peak_mib(0), group.anonymous_mib(0), group.kills()), (7, 3, 2))

    def test_version_2(self):
        group = self.group(2, {
            "memory.max": "", "memory.swap.max": "", "memory.peak": f"{7 * MIB}\n", "memory.stat": f"anon {3 * MIB}\nfile 9\n",
            "memory.events": "oom 5\noom_kill 1\n",
        })  # fmt: skip
        self.assertEqual((group.path / "memory.max").read_text(), str(512 * MIB))
        self.assertEqual((group.path / "memory.swap.max").read_text(), "0")
        self.assertEqual((group.peak_mib(0), group.anonymous_mib(0), group.kills()), (7, 3, 1))


if __name__ == "__main__":
    unittest.main()
