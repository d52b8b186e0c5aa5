"""Stands in for the suite's own test/service.py, which its source distribution leaves out.

Only what an external broker needs: the suite asks a service to stop and to dump its logs.
"""


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
