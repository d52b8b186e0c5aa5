"""A Faust worker that keeps the last value of each key in a table; its changelog is a compacted topic.

    table.py BOOTSTRAP STATE_DIRECTORY

Prints {"ready": table} once the table is recovered from the changelog, and {"key", "value"} per record.
"""

import asyncio
import json
import sys

import faust

bootstrap, directory = sys.argv[1:3]
app = faust.App(
    "story", broker=f"kafka://{bootstrap}", store="memory://", topic_partitions=1, datadir=directory, web_enabled=False,
    stream_wait_empty=False, broker_session_timeout=6, broker_heartbeat_interval=1)
numbers = app.topic("numbers", key_type=str, value_type=str, partitions=1)
table = app.Table("last", default=str, key_type=str, value_type=str, partitions=1)


def show(**line):
    print(json.dumps(line), flush=True)


@app.agent(numbers)
async def keep(stream):
    async for key, value in stream.items():
        table[key] = value
        show(key=key, value=value)


@app.task
async def ready():
    # Tasks start when the tables are recovered.
    while app.tables.recovery.in_recovery:
        await asyncio.sleep(0.1)
    show(ready=dict(table))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()
