"""Unit tests of cluster_servers.py, and of the rows that its scenarios fill."""

import re
import unittest
from pathlib import Path

import cluster_servers
import rows


def report(*replicas, shard=1):
    return {"shards": [{"shard": shard, "replicas": list(replicas)}]}


def replica(broker, lag=0, votes=True):
    return {"broker": broker, "lag": lag, "votes": votes}


class Behind(unittest.TestCase):
    def test_all_voters_that_caught_up_are_enough(self):
        self.assertEqual(cluster_servers.replicas_behind(report(replica(1), replica(2), replica(3, lag=1))), [])

    def test_a_replica_that_lacks_entries_or_is_not_reported_is_behind(self):
        for last in (replica(3, lag=cluster_servers.LAG_MAX + 1), replica(3, lag=None), replica(3, votes=False)):
            self.assertEqual(len(cluster_servers.replicas_behind(report(replica(1), replica(2), last))), 1)

    def test_a_shard_with_too_few_replicas_is_behind(self):
        self.assertEqual(cluster_servers.replicas_behind(report(replica(1), shard=7)), ["shard 7: 1 replicas"])


class Rows(unittest.TestCase):
    def test_every_row_has_its_own_name(self):
        names = [row.name for row in rows.cluster_rows(())]
        self.assertEqual(len(names), len(set(names)))

    def test_every_row_is_of_a_scenario_that_exists(self):
        text = (Path(__file__).parent / "cluster_scenarios.py").read_text()
        known = set(re.findall(r"^def (\w+)", text, re.M)) | {"start", "one_in_flight"}
        self.assertLessEqual({name for row in rows.cluster_rows(()) for name in row.scenarios}, known)


if __name__ == "__main__":
    unittest.main()
