"""Replaces the suite's test/service.py, which its source distribution does not contain.

It has only what an external broker needs: the suite calls stop and dump_logs of a service.

It also changes one setting of every consumer. A consumer that subscribes while its first metadata request (without
topics) is in flight takes that answer as the answer for its subscription (`ClusterMetadata.set_topics` requests an
update, and the older answer cancels it), so it has no partitions until `metadata_max_age_ms`: five minutes, but the
tests wait for seconds. This can affect any test, and is more likely with a faster broker.
"""

from kafka import KafkaConsumer

KafkaConsumer.DEFAULT_CONFIG["metadata_max_age_ms"] = 500


class ExternalService:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def open(self):
        pass

    def close(self):
        pass

    def stop(self):
        pass

    def dump_logs(self):
        pass


class SpawnedService(ExternalService):
    def __init__(self, args, env):
        raise NotImplementedError("the broker is started by the caller")
