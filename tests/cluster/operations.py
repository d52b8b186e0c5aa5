"""Operations on a broker, over the admin API of any that runs. See broker/src/admin/cluster/operations.rs."""

import json
import urllib.error
import urllib.request

from waiting import wait_for

ANSWER_S_MAX = 30
# Until all replicas of a broker have moved, with the files of their shards.
DRAINED_S_MAX = 600
# Until all leaderships of a broker have moved.
HANDED_OVER_S_MAX = 60


class Refused(Exception):
    """The answer that refuses an operation."""


class Operations:
    """As one operator does them, under an epoch of its own."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.epoch = self.call("POST", "/v1/fence", {"holder": "cluster-test", "leaseUid": "1"})["epoch"]

    def call(self, method, path, body=None):
        asked = next(node for node in self.cluster.nodes if node.is_running() and not node.is_paused)
        headers = {"Authorization": f"Bearer {asked.token}", "Content-Type": "application/json"}
        if path != "/v1/fence":
            headers["Ropewalk-Epoch"] = str(self.epoch)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{asked.admin}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S_MAX) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def of_broker(self, method, number, operation="", body=None):
        return self.call(method, f"/v1/cluster/brokers/{number}{operation}", body)

    def wait_until_done(self, number, what, seconds_max):
        def missing():
            self.cluster.check_running()
            progress = self.of_broker("GET", number)
            return None if progress["done"] else progress["message"]

        return wait_for(f"broker {number} is {what}", seconds_max, missing, every=0.1)

    def drain(self, number):
        """Waits until it holds nothing; the seconds that took."""
        self.of_broker("POST", number, "/drain", {})
        return self.wait_until_done(number, "drained", DRAINED_S_MAX)

    def hand_over(self, number):
        """Moves all that it leads to others, until it is admitted; the seconds until it led nothing."""
        self.of_broker("POST", number, "/prepare-restart", {"deadlineSeconds": HANDED_OVER_S_MAX})
        return self.wait_until_done(number, "without leaderships", HANDED_OVER_S_MAX)

    def admit(self, number):
        """Lets it lead and take replicas again."""
        self.of_broker("POST", number, "/admit", {})

    def forget(self, number):
        """It must have ended. The others notice after some seconds that it does not answer."""
        def missing():
            try:
                self.of_broker("DELETE", number)
            except Refused as error:
                return str(error)

        return wait_for(f"broker {number} is removed", HANDED_OVER_S_MAX, missing, every=0.5)
