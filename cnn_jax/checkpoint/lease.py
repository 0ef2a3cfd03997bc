"""Which run holds a folder of a bucket: a lock that dies with its holder, though no system watches over it.

    URL/.lock/00000007   {"by": "process 1 on host", "seconds": 60.0, "beat": 12, "released": false}

The highest number holds. It is renewed, and who finds it unchanged for its seconds takes the next number: an object
that only one can create (If-None-Match on S3, a generation of 0 on GCS). A holder that was silent for longer finds the
higher number before its next upload, and stops. No clock is compared with another one.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from cnn_jax.core.errors import UserError

RENEWALS = 4  # within the seconds of a lease


class Lease:
    """Holds `folder`, the place of the lock in a bucket, while the block runs.

    Args:
      store: of fsspec. seconds: of silence after which this run counts as dead. name: of what is held, for messages.
      report: is called with a sentence when it has to wait.

    Raises:
      UserError: a run that lives holds it.
    """

    def __init__(self, store: Any, folder: str, *, seconds: float, name: str, report: Callable[[str], Any]):
        self.store, self.folder, self.seconds, self.name, self.report = store, folder, seconds, name, report
        self.number = 0
        self.beat = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raises UserError if another run has taken over."""
        number, holder = self._holder()
        if number > self.number:
            raise UserError(
                f"{self.name} is now held by {holder.get('by', 'another process')}: this run was silent for more than "
                f"{self.seconds:g} s (config.checkpoint.lease) and counted as dead. It stops, and has uploaded nothing "
                "since"
            )

    def __enter__(self) -> "Lease":
        while True:
            number, holder = self._holder()
            if number and not holder.get("released"):
                self._wait_for(number, holder)
            if self._create(number + 1) and max(self._numbers()) == number + 1:
                break
        for other in self._numbers():
            if other < self.number:
                self.store.rm_file(self._path(other))
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # it will count as dead
            self.store.pipe_file(self._path(self.number), self._content(released=True))

    def _wait_for(self, number: int, holder: dict[str, Any]) -> None:
        """Returns when the holder has ended, or counts as dead."""
        by, seconds = holder.get("by", "another process"), float(holder.get("seconds", self.seconds))
        self.report(f"{self.name} is held by {by}: waiting up to {seconds:g} s for a sign of life")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 8))
            now, found = self._holder()
            if now != number or found.get("released"):
                return
            if found != holder:
                raise UserError(f"{self.name} is in use by {by}: wait until it ends, or give another --workdir")

    def _renew(self) -> None:
        while not self._end.wait(self.seconds / RENEWALS):
            with contextlib.suppress(Exception):  # the next renewal may come in time
                self.beat += 1
                self.store.pipe_file(self._path(self.number), self._content())

    def _create(self, number: int) -> bool:
        """Returns whether this process, and no other one, took a number."""
        try:
            self.store.pipe_file(self._path(number), self._content(), mode="create")
        except FileExistsError:
            return False
        except OSError:  # what some servers say of it
            if number not in self._numbers():
                raise
            return False
        self.number = number
        return True

    def _holder(self) -> tuple[int, dict[str, Any]]:
        """Returns the highest number and what it says; 0 where there is none."""
        while number := max(self._numbers(), default=0):
            try:
                return number, dict(json.loads(self.store.cat_file(self._path(number))))
            except FileNotFoundError:
                continue  # a higher one came meanwhile
            except (ValueError, TypeError):
                return number, {}
        return 0, {}

    def _numbers(self) -> list[int]:
        try:
            names = self.store.ls(self.folder, detail=False)
        except FileNotFoundError:
            return []
        return [int(name[-8:]) for name in names if re.search(r"/\d{8}$", name)]

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:08d}"

    def _content(self, *, released: bool = False) -> bytes:
        by = f"process {os.getpid()} on {socket.gethostname()}"
        return json.dumps({"by": by, "seconds": self.seconds, "beat": self.beat, "released": released}).encode()
