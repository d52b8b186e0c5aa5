"""The helpers of the cluster's fault tests."""

import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from types import SimpleNamespace

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "history")]
import certificates  # noqa: E402
import clock  # noqa: E402
import disk  # noqa: E402
import elections  # noqa: E402
import growth  # noqa: E402
import metadata  # noqa: E402
import network  # noqa: E402
import operations  # noqa: E402
import report  # noqa: E402
import scenarios  # noqa: E402
import waiting  # noqa: E402
from clusters import lacking, not_whole, warnings  # noqa: E402
from history import History  # noqa: E402
from metadata import Partition, View  # noqa: E402


def view(leaders=(1, 2, 3), brokers=(1, 2, 3), controller=1, in_sync=(1, 2, 3)):
    partitions = {at: Partition(leader, [1, 2, 3], list(in_sync)) for at, leader in enumerate(leaders)}
    return View({number: f"127.0.1.{number}:9092" for number in brokers}, controller, {"t": partitions})


class Waiting(unittest.TestCase):
    def test_a_wait_ends_when_nothing_is_missing(self):
        missing = ["one", "two", None]
        self.assertLess(waiting.wait_for("x", 10, lambda: missing.pop(0), every=0), 10)
        self.assertEqual([], missing)

    def test_a_wait_that_takes_too_long_says_what_for_and_what_is_missing(self):
        with self.assertRaisesRegex(waiting.TooLate, "all is there: not after 0 s: broker 3"):
            waiting.wait_for("all is there", 0, lambda: "broker 3", every=0.001)


class Elections(unittest.TestCase):
    def test_a_leader_that_the_catalog_moved_is_no_election(self):
        before = {0: (1, 2), 1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (1, 2), 5: (1, 2)}
        after = {0: (1, 2), 1: (3, 3), 2: (3, 3), 3: (2, 4), 4: (None, None)}
        elected = elections.elected(before, after, Counter({1: 1, 3: 1, 4: 1, 5: 1}))
        self.assertEqual({2: ((1, 2), (3, 3)), 3: ((1, 2), (2, 4)), 4: ((1, 2), (None, None)), 5: ((1, 2), None)}, elected)

    def test_the_moves_of_the_catalog_are_read_from_the_logs_of_all_brokers(self):
        with tempfile.TemporaryDirectory() as folder:
            lines = {1: "placing replicas step=Transfer { shard: ShardId(21), to: ReplicaId(72) }\n" * 2,
                     2: "placing replicas step=Promote { shard: ShardId(22), replica: ReplicaId(73) }\n"}
            nodes = [SimpleNamespace(log_path=pathlib.Path(folder, str(number))) for number in lines]
            for node, text in zip(nodes, lines.values()):
                node.log_path.write_text(text)
            self.assertEqual({21: 2}, elections.moves(SimpleNamespace(nodes=nodes)))


class Metadata(unittest.TestCase):
    def test_an_answer_is_read(self):
        text = metadata.text
        answer = struct.pack(">ii", 1, 1) + struct.pack(">i", 7) + text("host") + struct.pack(">ih", 9092, -1)
        answer += struct.pack(">i", 7) + struct.pack(">i", 2)
        answer += struct.pack(">h", 0) + text("t") + struct.pack(">bi", 0, 1)
        answer += struct.pack(">hii", 0, 4, 7) + struct.pack(">iiii", 3, 7, 8, 9) + struct.pack(">ii", 1, 7)
        answer += struct.pack(">h", 3) + text("missing") + struct.pack(">bi", 0, 0)
        found = metadata.parse(answer)
        self.assertEqual(View({7: "host:9092"}, 7, {"t": {4: Partition(7, [7, 8, 9], [7])}}, {"missing": 3}), found)

    def test_an_answer_to_another_request_is_refused(self):
        with self.assertRaises(ConnectionError):
            metadata.parse(struct.pack(">iiii", 2, 0, 0, 0))

    def test_a_request_begins_with_its_size(self):
        request = metadata.request(["t"])
        self.assertEqual(len(request) - 4, struct.unpack(">i", request[:4])[0])


class Whole(unittest.TestCase):
    NUMBERS = {1, 2, 3}

    def missing(self, **of_second):
        return not_whole({1: view(), 2: view(**of_second)}, self.NUMBERS, "t")

    def test_what_is_missing_is_named(self):
        self.assertIsNone(self.missing())
        self.assertRegex(self.missing(brokers=(1, 2)), r"broker 2 knows the brokers \[1, 2\]")
        self.assertRegex(self.missing(controller=-1), "no controller")
        self.assertRegex(self.missing(in_sync=(1, 3)), r"t/0 is in sync on \[1, 3\]")
        self.assertRegex(self.missing(leaders=(1, 2, -1)), "no leader of t/2")
        self.assertRegex(self.missing(leaders=(1, 3, 3)), "t/1 is led by 2 and by 3")
        self.assertRegex(not_whole({1: "refused"}, self.NUMBERS, "t"), "broker 1 does not answer: refused")
        self.assertRegex(not_whole({1: View({1: "", 2: "", 3: ""}, 1)}, self.NUMBERS, "t"), "does not know t")


    def test_a_partition_of_a_large_cluster_has_three_replicas(self):
        five = View({number: "" for number in range(1, 6)}, 1, {"t": {0: Partition(2, [2, 4, 5], [5, 2, 4])}})
        self.assertIsNone(not_whole({1: five}, set(range(1, 6)), "t"))
        five.topics["t"][0] = Partition(2, [2, 4], [2, 4])
        self.assertRegex(not_whole({1: five}, set(range(1, 6)), "t"), r"t/0 is on \[2, 4\]")
        five.topics["t"][0] = Partition(2, [2, 4, 6], [2, 4, 6])
        self.assertRegex(not_whole({1: five}, set(range(1, 6)), "t"), r"t/0 is on \[2, 4, 6\]")


    def test_every_shard_needs_all_its_replicas_in_sync(self):
        def replicas(*states):
            return [{"broker": at + 1, "role": "Voter" if votes else "Learner", "votes": votes, "caughtUp": caught_up}
                    for at, (votes, caught_up) in enumerate(states)]

        def missing(*states, shard=4):
            return lacking({"shards": [{"shard": shard, "replicas": replicas(*states)}]}, 3)

        in_sync = (True, True)
        self.assertIsNone(missing(in_sync, in_sync, in_sync))
        self.assertIsNone(lacking({"shards": []}, 3))
        self.assertRegex(missing(in_sync, in_sync, (True, False)), r"shard 4 has voters in sync on \[1, 2\], of 3")
        self.assertRegex(missing(in_sync, in_sync, (False, True)), r"on \[1, 2\], of 3")
        self.assertRegex(missing(in_sync, in_sync, (None, None)), r"on \[1, 2\], of 3")
        self.assertRegex(missing(in_sync, in_sync, in_sync, (False, True)), r"on \[1, 2, 3\], of 4")
        self.assertIsNone(missing(in_sync, in_sync, in_sync, (False, True), shard=0))
        self.assertRegex(missing(in_sync, in_sync, (False, True), shard=0), r"on \[1, 2\], of 2")


class Refusals(unittest.TestCase):
    def test_the_reason_is_read(self):
        refused = operations.Refused("POST /x", 409, '{"reason": "MajorityAtRisk"}')
        self.assertEqual("MajorityAtRisk", refused.reason)
        self.assertIn("POST /x: 409", str(refused))
        self.assertIsNone(operations.Refused("POST /x", 502, "no gateway").reason)


class Disks(unittest.TestCase):
    def test_the_kernel_is_told_the_device_and_the_limit(self):
        device = 7 << 8 | 3
        self.assertEqual(("blkio.throttle.write_iops_device", "7:3 20"), disk.limit_of(device, 20, is_v1=True))
        self.assertEqual(("blkio.throttle.write_iops_device", "7:3 0"), disk.limit_of(device, None, is_v1=True))
        self.assertEqual(("io.max", "7:3 wiops=20"), disk.limit_of(device, 20, is_v1=False))
        self.assertEqual(("io.max", "7:3 wiops=max"), disk.limit_of(device, None, is_v1=False))


class Clocks(unittest.TestCase):
    def test_what_the_kernel_says_is_read(self):
        maps = "55d0-55d1 r-xp 00000000 00:00 0    /bin/x\n7ffe0f00-7ffe2f00 r-xp 00000000 00:00 0    [vdso]\n"
        self.assertEqual((0x7ffe0f00, 0x7ffe2f00), clock.range_of(maps))
        symbols = "  2: 0000000000000810   683 FUNC    GLOBAL DEFAULT   12 __vdso_gettimeofday@@LINUX_2.6\n" \
                  "  9: 0000000000000af0   902 FUNC    GLOBAL DEFAULT   12 __vdso_clock_gettime@@LINUX_2.6\n"
        self.assertEqual(0xaf0, clock.offset_of(symbols))
        self.assertIsNone(clock.address_of("running\n"))
        self.assertEqual(0x46bd53, clock.address_of("230 0x0 0x0 0x7ffe78b28be0 0x0 0x24 0x1 0x7ffe78b28bc8 0x46bd53\n"))

    @unittest.skipUnless(clock.is_possible() and os.geteuid() == 0, "needs x86-64 and root")
    def test_only_the_wall_clock_of_one_process_jumps(self):
        program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              bufsize=1) as process:

            def ahead():
                process.stdin.write("\n")
                wall, monotonic = map(float, process.stdout.readline().split())
                return round(wall - time.time(), -1), round(monotonic - time.monotonic(), -1)

            self.assertEqual((0, 0), ahead())
            for seconds in (3600, -3600, 0):
                clock.set_forward(process, seconds)
                self.assertEqual((seconds, 0), ahead())


class Moments(unittest.TestCase):
    def test_a_replica_is_found_by_its_state(self):
        def replica(broker, role, votes):
            return {"broker": broker, "role": role, "votes": votes}

        def shard(number, leader, *replicas):
            return {"shard": number, "leader": leader, "replicas": replicas}

        learner, promoted, voter = replica(2, "Learner", False), replica(3, "Voter", False), replica(1, "Voter", True)
        report = {"shards": [shard(0, 1, voter, learner), shard(1, 1, voter, learner), shard(2, 3, promoted, voter),
                             shard(3, None, promoted, learner)]}
        self.assertEqual([1], growth.moments(report, growth.is_receiving))
        self.assertEqual([], growth.moments(report, growth.is_receiving, 3))
        self.assertEqual([3], growth.moments(report, growth.is_promoted))
        unknown = {"shards": [shard(1, 1, replica(2, "Voter", None))]}
        self.assertEqual([], growth.moments(unknown, growth.is_promoted))


class Warnings(unittest.TestCase):
    def test_those_that_differ_in_numbers_are_shown_once(self):
        lines = ["01:00 WARN x=1", "01:01 INFO y", "01:02 ERROR z", "01:03 WARN x=2"]
        self.assertEqual(["01:02 ERROR z", "01:03 WARN x=2   (2 times)"], warnings(lines))


class Roles(unittest.TestCase):
    def test_each_role_is_picked_by_what_it_leads(self):
        rng = random.Random(1)
        seen = view(leaders=(2, 2, 3, 3), controller=3)
        for _ in range(20):
            self.assertIn(scenarios.pick(seen, "t", "leader", rng), (2, 3))
        self.assertEqual(1, scenarios.pick(seen, "t", "follower", rng))
        self.assertEqual(3, scenarios.pick(seen, "t", "controller", rng))
        with self.assertRaises(ValueError):
            scenarios.pick(seen, "t", "observer", rng)


class Cuts(unittest.TestCase):
    def test_every_cut_is_healed_also_after_an_error(self):
        done = []
        with self.assertRaises(KeyError), network.Network(run=done.append) as cuts:
            cuts.cut_both("127.0.1.1", "127.0.1.2")
            cuts.cut("127.0.1.3", "127.0.1.1")
            raise KeyError
        made = [command[4:] for command in done if "-A" in command]
        ended = [command[4:] for command in done if "-D" in command]
        self.assertEqual(3, len(made))
        self.assertEqual(sorted(made), sorted(ended))


class Certificates(unittest.TestCase):
    def test_names_are_those_of_the_broker(self):
        """The examples of broker/peer/src/name.rs."""
        self.assertEqual("broker-3.x-41625f2d.ropewalk", certificates.name_of(3, "Ab_-"))
        self.assertEqual("broker-0.9d7f2a4e-1.ropewalk", certificates.name_of(0, "9d7f2a4e-1"))
        self.assertEqual("broker-0.x-782d34313432.ropewalk", certificates.name_of(0, "x-4142"))

    def test_a_certificate_names_its_broker_and_is_signed(self):
        with tempfile.TemporaryDirectory() as scratch:
            directory = pathlib.Path(scratch)
            certificates.make_authority(directory)
            certificates.make_certificate(directory, 2, "cluster-test")
            certificate = directory / "broker-2.crt"
            subprocess.run(["openssl", "verify", "-purpose", "sslserver", "-CAfile", directory / "ca.crt", certificate],
                           check=True, capture_output=True)
            shown = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-text"], capture_output=True, text=True)
            self.assertIn("DNS:broker-2.cluster-test.ropewalk", shown.stdout)


class Report(unittest.TestCase):
    def test_a_member_that_stays_keeps_its_assignment(self):
        def kinds(*assignments):
            told = History()
            for partitions in assignments:
                told.add({"op": "assign", "process": "m", "began": 0, "ended": 0, "how": "subscribe", "partitions": partitions})
            return [anomaly.kind for anomaly in report.anomalies(told, ["m"])]

        self.assertEqual([], kinds([], ["t/0"]))
        self.assertEqual(["rebalanced"], kinds(["t/0"], ["t/0"]))
        self.assertEqual(["rebalanced"], kinds(["t/0"], []))
        self.assertEqual(["rebalanced"], kinds(), "a member that reads nothing shows nothing")

    def test_a_pause_counts_for_its_event_only(self):
        told = History()
        for at, ended in enumerate([1, 2, 3, 9, 10, 11, 12]):
            told.add({"op": "send", "process": "p", "began": 0, "ended": int(ended * 1e9), "partition": "t/0",
                      "value": f"v{at}", "outcome": "ok", "offset": at})
        told.add({"op": "epoch", "process": "p", "began": 1, "ended": 1, "why": "skipped"})
        kind, result = report.KILLS[0], report.Result("ropewalk", "kill")
        result.add([report.Event(int(10e9)), report.Event(int(3.5e9), kind)], told, [])
        self.assertEqual({kind: [5.5]}, result.pauses)
        self.assertEqual({"p": [5.5]}, result.waits)
        lines = list(report.table([result]))
        self.assertRegex(lines[1], r"ropewalk +kill -9 of a leader +1 +5.50 +5.50$")
        self.assertRegex(lines[2], r"ropewalk +every kill -9 +1 +5.50 +5.50$")
        self.assertIn("7 sends acknowledged, 0 unknown, 0 records read, 0 anomalies", lines[3])
        self.assertRegex(lines[4], "gave up 0 records .*began 1 new epochs$")
        self.assertEqual("    new epoch: skipped", lines[5])
        self.assertIn("p 5.50", lines[6])

    def test_records_that_were_given_up_are_counted_by_whether_they_are_there(self):
        told = History()
        for value in "ab":
            told.add({"op": "send", "process": "p", "began": 0, "ended": 1, "partition": "t/0", "value": value,
                      "outcome": "info", "possibly_persisted": True})
        told.add({"op": "poll", "process": "c", "began": 2, "ended": 2, "records": [["t/0", 0, "b"]]})
        result = report.Result("ropewalk", "stop")
        result.add([report.Event(0, "x")], told, [])
        self.assertEqual((2, 1), (result.possibly_persisted, result.persisted))

    def test_median(self):
        self.assertEqual(2, report.median([3, 1, 2]))
        self.assertEqual(1.5, report.median([2, 1]))

    def test_rounds_add_up(self):
        self.assertEqual([8], scenarios.rounds_of(8))
        self.assertEqual([50] * 10, scenarios.rounds_of(500))
        self.assertEqual([50, 3], scenarios.rounds_of(53))


if __name__ == "__main__":
    unittest.main()
