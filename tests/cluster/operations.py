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


class Refused(RuntimeError):
    """The answer that refuses an operation."""

    def __init__(self, request, status, answer):
        super().__init__(f"{request}: {status} {answer}")
        self.answer = answer

    @property
    def reason(self):
        """The machine-readable part of it; nothing if it has none."""
        try:
            return json.loads(self.answer).get("reason")
        except ValueError:
            return None


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
            raise Refused(f"{method} {path}", error.code, error.read().decode()) from None

    def of_broker(self, method, number, operation="", body=None):
        return self.call(method, f"/v1/cluster/brokers/{number}{operation}", body)

    def wait_until_done(self, number, what, seconds_max):
        def missing():
            self.cluster.check_running()
            progress = self.of_broker("GET", number)
            return None if progress["done"] else progress["message"]

        return wait_for(f"broker {number} is {what}", seconds_max, missing, every=0.1)

    def drain(self, number):
        """Waits until it holds nothing; the seconds that took. A shard has one replica too many while one moves, and then
        it does not fit on the brokers that stay."""
        self.ask_until_accepted(number, "/drain", {}, "TooFewBrokers")
        return self.wait_until_done(number, "drained", DRAINED_S_MAX)

    def hand_over(self, number):
        """Moves all that it leads to others, until it is admitted; the seconds until it led nothing. A shard that has just
        begun may lack replicas that have caught up."""
        self.ask_until_accepted(number, "/prepare-restart", {"deadlineSeconds": HANDED_OVER_S_MAX}, "MajorityAtRisk")
        return self.wait_until_done(number, "without leaderships", HANDED_OVER_S_MAX)

    def ask_until_accepted(self, number, operation, body, passing):
        """`passing` is the reason of refusals that end by themselves."""
        def refusal():
            try:
                self.of_broker("POST", number, operation, body)
            except Refused as refused:
                if refused.reason != passing:
                    raise
                return str(refused)

        return wait_for(f"{operation} of broker {number} is accepted", HANDED_OVER_S_MAX, refusal, every=0.25)

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
