"""What a run says, without doing anything: medians, ratios, the knee of a sweep, and the tables."""

import statistics

KNEE_SHARE = 0.8


def median(values):
    return statistics.median(values) if values else None


def ratios(theirs, ours, less_is_better):
    """Ours to theirs in each round that has both, turned so that more than 1 is in our favour."""
    pairs = [(t, o) for t, o in zip(theirs, ours) if t and o]
    return [t / o if less_is_better else o / t for t, o in pairs]


def number(value, digits=3):
    return f"{value:.{digits}g}" if abs(value) < 100 else f"{value:,.0f}"


def times(value):
    return number(value, 2)


def span(values, show):
    """The lowest and the highest value, if there are several."""
    return f"{show(min(values))}–{show(max(values))}" if len(values) > 1 else ""


def cell(theirs, ours, row, failed):
    """A cell: the median, the ratio with its range over the rounds, and in how many rounds the row failed.

    `theirs` and `ours` have one value per round, none where there is none. For our own cells `ours` is none.
    """
    values = [value for value in theirs if value is not None]
    if not values:
        return "failed" if failed else "–"
    if isinstance(values[0], str):
        return values[0]
    parts = []
    if ours is None or not row.is_compared:
        parts += [span(values, number)]
    else:
        found = ratios(theirs, ours, row.less_is_better())
        if found:
            parts += [f"{times(median(found))}×", span(found, times)]
    parts = [part for part in parts if part]
    shown = number(median(values)) + (f" ({', '.join(parts)})" if parts else "")
    return shown + (f", {failed} of {len(theirs)} failed" if failed else "")


def table(rows, names, taken, failed, own="ropewalk"):
    """The table in Markdown.

    `taken[name]` has one dictionary per round from a row's name to its value; `failed[name]` counts the rounds in which
    a row failed. Rows that no server has are left out, rows that failed are not.
    """
    lines = ["| | unit | " + " | ".join(names) + " | what it means |", "|---|---|" + "---|" * (len(names) + 1)]
    for row in rows:
        of = {name: [values.get(row.name) for values in taken[name]] for name in names}
        counts = {name: failed[name].get(row.name, 0) for name in names}
        if not any(counts.values()) and all(value is None for values in of.values() for value in values):
            continue
        cells = [cell(of[name], None if name == own else of.get(own, []), row, counts[name]) for name in names]
        lines.append(f"| {row.name} | {row.unit} | " + " | ".join(cells) + f" | {row.meaning} |")
    return "\n".join(lines)


def window_kib(point):
    return point["connections"] * point["in_flight"] * point["batch_kib"]


def knee(points):
    """The point of most throughput, and the one with the smallest window that reaches 80 % of it."""
    peak = max(points, key=lambda point: point["mb_per_s"])
    enough = [point for point in points if point["mb_per_s"] >= KNEE_SHARE * peak["mb_per_s"]]
    return peak, min(enough, key=lambda point: (window_kib(point), -point["mb_per_s"]))


def sweep_table(names, sweeps):
    """One line per window with each server's medians; `sweeps[name]` has the points of each round."""
    shapes = {}
    for name in names:
        for points in sweeps[name]:
            for point in points:
                key = (window_kib(point), point["connections"], point["in_flight"], point["batch_kib"])
                shapes.setdefault(key, {}).setdefault(name, []).append(point)
    if not shapes:
        return ""
    lines = ["| connections × in flight × KiB | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for key in sorted(shapes):
        cells = []
        for name in names:
            points = shapes[key].get(name, [])
            rate, p99 = median([p["mb_per_s"] for p in points]), median([p["p99_ms"] for p in points])
            cells.append(f"{number(rate)} MB/s, {number(p99)} ms" if points else "–")
        lines.append(f"| {key[1]} × {key[2]} × {key[3]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def probe_lines(probe):
    """What the machine does without a server: the lines above the table."""
    memory = probe["memory"]
    lines = [
        f"- page-cache memory, CPU s/GiB: {memory['fresh']:.2f} fresh from the kernel, {memory['recycled']:.2f} recycled, "
        f"{memory['cached']:.2f} already in the cache",
        f"- the disk's own sequential rate (O_DIRECT, 4 MiB): {number(probe['sequential_mb_per_s'])} MB/s",
    ]
    for key, size in (("sync_4_kib", "4 KiB"), ("sync_64_kib", "64 KiB"), ("sync_1_mib", "1 MiB")):
        found, ms = probe[key], probe[key]["ms"]
        lines.append(
            f"- its own synchronous write of {size} (O_DIRECT|O_DSYNC): {number(found['per_s'])}/s, "
            f"{number(found['mb_per_s'])} MB/s, p50 {ms['p50']:.2f}, p99 {ms['p99']:.2f}, p99.9 {ms['p999']:.2f}, "
            f"max {ms['max']:.1f} ms"
        )
    return "\n".join(lines)
