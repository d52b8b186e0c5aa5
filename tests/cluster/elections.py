"""Leaders that changed although the catalog did not move them."""

import re
from collections import Counter

# How the catalog's leader logs that it asks a shard's leader to hand over.
TRANSFER = re.compile(r"placing replicas step=Transfer \{ shard: ShardId\((\d+)\)")


def moves(cluster):
    """How often the catalog has moved the leader of each shard to balance the load."""
    logs = (node.log_path.read_text(errors="replace") for node in cluster.nodes)
    return Counter(int(shard) for log in logs for shard in TRANSFER.findall(log))


def elected(before, after, moved):
    """The shards whose leader changed, broker and term before and after, without those that the catalog moved."""
    def was_moved(shard, led, now):
        # Each move is one term.
        return now and None not in (led[1], now[1]) and 0 < now[1] - led[1] <= moved[shard]

    now = {shard: (led, after.get(shard)) for shard, led in before.items()}
    return {shard: pair for shard, pair in now.items() if pair[0] != pair[1] and not was_moved(shard, *pair)}
