"""Stands in for the suite's own test/service.py, which its source distribution leaves out.

Only what an external broker needs: the suite asks a service to stop and to dump its logs.

And one setting for every consumer of the suite. One that subscribes while its first request for metadata (of no topic)
is on its way takes that answer for the one to its subscription (`ClusterMetadata.set_topics` asks for an update, and
the older answer takes this back), so it sees no partition until `metadata_max_age_ms` is over: five minutes, where
the tests wait for seconds. Any test may meet it, the more likely the sooner the broker answers.
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
