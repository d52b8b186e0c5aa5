"""Kills the broker repeatedly under load, then checks the guarantees to clients with the checker of tests/history:
nothing that was acknowledged is lost (D1), nothing is there twice (D5), offsets are dense and in order (O1), and a
group goes on where it committed (O3).
"""

import multiprocessing
import pathlib
import random
import sys
import time

from confluent_kafka.admin import AdminClient, NewTopic

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "history")]
import checker  # noqa: E402
import clients  # noqa: E402
import history  # noqa: E402
from broker import Broker  # noqa: E402

TOPIC, GROUP, PARTITIONS = "crash", "crash-group", 6
# A load that acknowledges fewer records for each kill shows little.
ACKED_PER_KILL_MIN = 50


def start_clients(bootstrap, scratch, stop):
    """The running processes."""
    writers = [("rd-none", clients.write_with_librdkafka, "none"), ("rd-lz4", clients.write_with_librdkafka, "lz4"),
               ("python", clients.write_with_kafka_python, None)]
    started = [(write, (bootstrap, TOPIC, PARTITIONS, name, scratch / f"{name}.history", stop, codec))
               for name, write, codec in writers]
    member = (bootstrap, TOPIC, GROUP, "member", scratch / "member.history", stop)
    started.append((clients.consume_in_group, member))
    processes = [multiprocessing.Process(target=target, args=arguments) for target, arguments in started]
    for process in processes:
        process.start()
    return processes


def kill_repeatedly(broker, kills, rng):
    """The times of the kills."""
    times = []
    for kill in range(kills):
        # Most kills hit the middle of the load, some the recovery itself.
        time.sleep(rng.choice([rng.uniform(0.0, 0.1), rng.uniform(0.3, 1.5), rng.uniform(0.3, 1.5)]))
        times.append(history.now())
        broker.kill()
        # Waits only for the port: the next kill may come before the broker is ready.
        broker.start(wait=False)
        broker.listens(60)
        if (kill + 1) % 20 == 0:
            print(f"{kill + 1} of {kills} kills", file=sys.stderr, flush=True)
    return times


def main(binary, scratch, kills, seed):
    scratch, rng = pathlib.Path(scratch), random.Random(seed)
    broker = Broker(binary, scratch / "data", ["group.initial.rebalance.delay.ms=0"])
    stop, processes = multiprocessing.Event(), []
    try:
        broker.start()
        admin = AdminClient({"bootstrap.servers": broker.kafka})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
        processes += start_clients(broker.kafka, scratch, stop)
        times = kill_repeatedly(broker, kills, rng)
        time.sleep(2)
        stop.set()
        for process in processes:
            process.join(180)
        failed = [process for process in processes if process.exitcode != 0]
        if failed:
            sys.exit(f"{len(failed)} clients did not end well (seed {seed})")
        clients.read_all(broker.kafka, TOPIC, PARTITIONS, [GROUP], scratch / "all.history")
        broker.stop()
        told = history.read(*scratch.glob("*.history"))
        found = checker.check(told)
        pauses = sorted(checker.pauses(told, times))
        print(f"longest time without an acknowledgement after a kill: median {pauses[len(pauses) // 2]:.1f} s, "
              f"most {pauses[-1]:.1f} s")
        print(f"seed {seed}: {kills} kills,", "\n".join(checker.summary(told, found)))
        if sum(send["outcome"] == history.OK for send in told.sends) < kills * ACKED_PER_KILL_MIN:
            sys.exit("too few records were acknowledged for the check to mean anything")
        sys.exit(1 if found else 0)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        broker.kill()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
