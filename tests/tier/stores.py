"""The S3 servers of the tests, MinIO and versitygw, each with one bucket. The run script names their programs."""

import http.client
import os
import pathlib
import secrets
import shutil
import subprocess

import s3
from broker import free_ports
from waiting import wait_for

BUCKET = "ropewalk-tests"
START_S_MAX = 30


class S3Server:
    """One server on a directory. Stopping and starting it keeps address, keys and objects."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.data, self.keys = self.directory / "data", self.directory / "keys"
        self.bucket_directory = self.data / BUCKET
        self.bucket_directory.mkdir(parents=True)
        self.keys.mkdir()
        self.access, self.secret = "ropewalk-test", secrets.token_hex(20)
        self.write_keys()
        self.port, self.other_port = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def write_keys(self, access=None, secret=None):
        """The files that brokers read keys from."""
        for name, value in (("access", access or self.access), ("secret", secret or self.secret)):
            part = self.keys / f"{name}.part"
            part.write_text(value)
            part.replace(self.keys / name)

    def start(self):
        with open(self.directory / "server.log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log,
                                            env={**os.environ, **self.environment()})
        wait_for(f"{self.name} answers", START_S_MAX, self.does_not_answer)
        return self

    def does_not_answer(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {(self.directory / 'server.log').read_text()[-800:]}")
        client = self.client()
        try:
            client.list()
        except (s3.Refused, http.client.HTTPException, OSError) as error:
            return repr(error)
        finally:
            client.close()
        return None

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, prefix=""):
        return s3.Client(self.address, BUCKET, self.access, self.secret, prefix)


class MinIo(S3Server):
    name = "minio"

    def command(self):
        console = f"127.0.0.1:{self.other_port}"
        return [os.environ["ROPEWALK_MINIO"], "server", "--quiet", "--address", self.address,
                "--console-address", console, str(self.data)]

    def environment(self):
        return {"MINIO_ROOT_USER": self.access, "MINIO_ROOT_PASSWORD": self.secret, "MINIO_UPDATE": "off"}


class VersityGw(S3Server):
    name = "versitygw"

    def command(self):
        return [os.environ["ROPEWALK_VERSITYGW"], "--quiet", "--port", self.address, "posix", str(self.data)]

    def environment(self):
        return {"ROOT_ACCESS_KEY": self.access, "ROOT_SECRET_KEY": self.secret}


SERVERS = {server.name: server for server in (MinIo, VersityGw)}
