"""The files of a cluster of several brokers on this machine, for scripts: tests/broker.sh and
tests/suites/kafka-java/launch.

    brokers.py write DIRECTORY FIRST_ID KAFKA,ADMIN,PEER… -- [KEY=VALUE…]
        Writes certificates and DIRECTORY/ID.properties, for a broker with each triple of ports. Ids are counted up;
        the first broker founds the cluster and the others join it. A later setting replaces an earlier one; with `ID:`
        before the key it is for that broker only.
    brokers.py wait SECONDS_MAX ADMIN…
        Waits until every broker is ready, every broker knows all, and every shard has all of its replicas: three, or
        one with fewer brokers.
    brokers.py spread SECONDS_MAX ADMIN…
        The same, and every broker leads its share of the shards: no leader is moved until there is load.
    brokers.py ready SECONDS_MAX ADMIN
        Waits until one broker is ready.
"""

import json
import pathlib
import sys
import urllib.error
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS / "cluster"))
import certificates  # noqa: E402
from waiting import TooLate, wait_for  # noqa: E402

CLUSTER_ID = "ropewalk-tests"
HOST = "127.0.0.1"


def peer_settings(own, peer, certificate_files, seeds, cluster_id):
    """The settings of a member of a cluster: it joins the brokers with the admin addresses `seeds`, or founds the cluster
    if there are none. Others reach it where it listens: with port 0, at the port that the system chose."""
    return {
        "node.id": own,
        "ropewalk.peer.listener": peer,
        "ropewalk.peer.certificate.file": certificate_files / f"broker-{own}.crt",
        "ropewalk.peer.key.file": certificate_files / f"broker-{own}.key",
        "ropewalk.peer.ca.file": certificate_files / "ca.crt",
        **({"ropewalk.cluster.join": ",".join(seeds)} if seeds else {"format.cluster.id": cluster_id}),
    }


def properties(settings):
    """The text of a file of settings, in which a backslash is written twice."""
    return "".join(f"{key}={str(value).replace(chr(92), chr(92) * 2)}\n" for key, value in settings.items())


def write(directory, first_id, ports, given, cluster_id=CLUSTER_ID):
    certificates.make_authority(directory)
    ids = [first_id + at for at in range(len(ports))]
    for own, (kafka, admin, peer) in zip(ids, ports):
        certificates.make_certificate(directory, own, cluster_id)
        seeds = [f"{HOST}:{other}" for _, other, _ in ports if other != admin] if own != first_id else []
        settings = {
            "log.dirs": directory / f"{own}.data",
            "listeners": f"PLAINTEXT://{HOST}:{kafka}",
            "ropewalk.admin.listener": f"{HOST}:{admin}",
            **peer_settings(own, f"{HOST}:{peer}", directory, seeds, cluster_id),
        }
        for pair in given:
            key, _, value = pair.partition("=")
            broker, _, of_one = key.rpartition(":")
            if broker in ("", str(own)):
                settings[of_one] = value
        (directory / f"{own}.properties").write_text(properties(settings))


def get(admin, path):
    with urllib.request.urlopen(f"http://{admin}{path}", timeout=5) as answer:
        return answer.read()


def not_ready(admin):
    """Why a broker is not ready; nothing if it is."""
    try:
        get(admin, "/ready")
    except urllib.error.HTTPError as error:
        return f"{admin} is not ready: {error.read().decode(errors='replace')[:300]}"
    except OSError as error:
        return f"{admin} does not answer: {error!r}"
    return None


def not_whole(admins):
    """What is missing until the cluster is whole; nothing if nothing is."""
    replicas = 3 if len(admins) >= 3 else 1
    for admin in admins:
        if missing := not_ready(admin):
            return missing
        cluster = json.loads(get(admin, "/v1/cluster"))
        alive = sum(broker["alive"] for broker in cluster["brokers"])
        if alive != len(admins):
            return f"{admin} sees {alive} brokers"
        for shard in cluster["shards"]:
            voters = sum(one["role"] == "Voter" and one.get("caughtUp") is True for one in shard["replicas"])
            if voters < replicas and len(admins) > 1:
                return f"{admin} says that shard {shard['shard']} has {voters} voters that have caught up"
    return None


def not_spread(admins):
    """What is missing until the cluster is whole and every broker leads its share; nothing if nothing is."""
    if missing := not_whole(admins):
        return missing
    shards = json.loads(get(admins[0], "/v1/cluster"))["shards"]
    led = [shard.get("leader") for shard in shards]
    for broker in {replica["broker"] for shard in shards for replica in shard["replicas"]}:
        if led.count(broker) < len(shards) // len(admins):
            return f"broker {broker} leads {led.count(broker)} of {len(shards)} shards"
    return None


def main():
    command, *arguments = sys.argv[1:]
    if command == "write":
        at = arguments.index("--")
        directory, first_id, *ports = arguments[:at]
        ports = [[int(port) for port in triple.split(",")] for triple in ports]
        write(pathlib.Path(directory), int(first_id), ports, arguments[at + 1:])
        return
    seconds_max, *admins = arguments
    try:
        if command == "ready":
            wait_for("the broker is ready", float(seconds_max), lambda: not_ready(*admins))
        elif command == "spread":
            wait_for("the leaders are spread", float(seconds_max), lambda: not_spread(admins), every=0.2)
        else:
            wait_for("the cluster is whole", float(seconds_max), lambda: not_whole(admins), every=0.2)
    except TooLate as late:
        sys.exit(str(late))


if __name__ == "__main__":
    main()
