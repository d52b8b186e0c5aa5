"""Unit tests of summary.py and rows.py; `tests/bench/run --check` runs all unit tests first."""

import unittest

import rows
import summary

MORE = rows.Row("rate", "MB/s", "", ("native",))
LESS = rows.Row("p99", "ms", "", ("native",))


def point(connections, in_flight, batch_kib, mb_per_s):
    shape = {"connections": connections, "in_flight": in_flight, "batch_kib": batch_kib}
    return {**shape, "mb_per_s": mb_per_s, "p99_ms": 1.0}


class Ratios(unittest.TestCase):
    def test_more_than_one_is_in_our_favour(self):
        self.assertEqual(summary.ratios([100], [200], less_is_better=False), [2.0])
        self.assertEqual(summary.ratios([100], [200], less_is_better=True), [0.5])

    def test_a_round_counts_only_with_both_values(self):
        self.assertEqual(summary.ratios([100, None, 50], [200, 300, None], less_is_better=False), [2.0])
        self.assertEqual(summary.ratios([0], [10], less_is_better=True), [])


class Cells(unittest.TestCase):
    def test_a_ratio_is_of_the_same_round_and_has_its_range(self):
        self.assertEqual(summary.cell([100, 200, 400], [200, 300, 400], MORE, 0), "200 (1.5×, 1–2)")
        self.assertEqual(summary.cell([3.0], [1.5], LESS, 0), "3 (2×)")
        self.assertEqual(summary.cell([1500.0], [1.0], LESS, 0), "1,500 (1,500×)")

    def test_our_own_cell_has_the_range_of_its_values(self):
        self.assertEqual(summary.cell([100, 150, 120], None, MORE, 0), "120 (100–150)")
        self.assertEqual(summary.cell([1234.0], None, MORE, 0), "1,234")

    def test_a_failure_is_never_dropped(self):
        self.assertEqual(summary.cell([None, None], [1, 1], MORE, 2), "failed")
        self.assertEqual(summary.cell([100, None], [100, 100], MORE, 1), "100 (1×), 1 of 2 failed")
        self.assertEqual(summary.cell([None], [1], MORE, 0), "–")

    def test_text_has_no_ratio(self):
        self.assertEqual(summary.cell(["no", "no"], ["yes", "yes"], MORE, 0), "no")


class Tables(unittest.TestCase):
    def test_rows_without_values_are_left_out_unless_they_failed(self):
        taken = {"ropewalk": [{"rate": 10.0}], "kafka": [{}]}
        shown = summary.table([MORE, LESS], ["ropewalk", "kafka"], taken, {"ropewalk": {}, "kafka": {}})
        self.assertIn("| rate | MB/s | 10 | – |", shown)
        self.assertNotIn("p99", shown)
        shown = summary.table([MORE, LESS], ["ropewalk", "kafka"], taken, {"ropewalk": {}, "kafka": {"p99": 1}})
        self.assertIn("| p99 | ms | – | failed |", shown)

    def test_a_table_without_ropewalk_has_no_ratios(self):
        shown = summary.table([MORE], ["kafka"], {"kafka": [{"rate": 5.0}]}, {"kafka": {}})
        self.assertIn("| rate | MB/s | 5 |", shown)


class Knee(unittest.TestCase):
    def test_it_is_the_smallest_window_near_the_peak(self):
        points = [point(1, 1, 64, 100), point(4, 1, 64, 390), point(4, 5, 64, 450), point(16, 20, 64, 440)]
        peak, found = summary.knee(points)
        self.assertEqual((peak["mb_per_s"], found["mb_per_s"]), (450, 390))
        self.assertEqual(summary.window_kib(found), 256)

    def test_the_table_takes_medians_over_rounds(self):
        sweeps = {"ropewalk": [[point(1, 1, 64, 100)], [point(1, 1, 64, 300)], [point(1, 1, 64, 110)]]}
        self.assertIn("| 1 × 1 × 64 | 110 MB/s, 1 ms |", summary.sweep_table(["ropewalk"], sweeps))
        self.assertEqual(summary.sweep_table(["nats"], {"nats": [[]]}), "")


class Rows(unittest.TestCase):
    def test_every_row_has_its_own_name_and_a_meaning(self):
        found = rows.rows((1, 1000))
        self.assertEqual(len({row.name for row in found}), len(found))
        self.assertTrue(all(row.meaning and row.scenarios for row in found))


if __name__ == "__main__":
    unittest.main()
