"""A program of tests/checkpoint/test_storage.py: an S3 server in a separate process. Its objects survive a stop.

python tests/helpers/s3_server.py PORT: reads the words "stop" and "start" from its input, and answers with "done".
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import fsspec

from several_processes import free_port


class Server:
    """A server that a test has started, with access to its objects that does not use the program."""

    def __init__(self):
        self.port = free_port()
        line = [sys.executable, str(Path(__file__)), str(self.port)]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        self._answer()

    @contextlib.contextmanager
    def stopped(self):
        """Nobody answers while the block runs; the objects stay."""
        self._tell("stop")
        try:
            yield
        finally:
            self._tell("start")

    def _tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self):
        assert self.process.stdout.readline() == "done\n"

    def files(self):
        return fsspec.filesystem("s3", use_listings_cache=False)


@contextlib.contextmanager
def running():
    """Yields a Server, which the environment names while the block runs."""
    server, before = Server(), dict(os.environ)
    os.environ |= server.environment
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # which may know a server before
    try:
        yield server
    finally:
        for name in server.environment:
            os.environ.pop(name)
        os.environ |= before
        server.process.kill()
        server.process.communicate()


if __name__ == "__main__":
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
    server.start()
    print("done", flush=True)
    for line in sys.stdin:
        server.stop() if line == "stop\n" else server.start()
        print("done", flush=True)
