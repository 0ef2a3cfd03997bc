"""Stack traces of all threads, where a run stands still: its input, its network, or other processes hang."""

import faulthandler
import sys
import time
from typing import Any


class StallTimer:
    """While the block runs, prints the stacks to standard error after `seconds` without `feed()`; 0: never.

    It prints them again after each further `seconds`. Ending the run is up to people, or the cluster's time limit.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._fed = 0.0

    def feed(self) -> None:
        """Starts the time anew; at most once a second, because it starts a thread."""
        file = sys.__stderr__  # sys.stderr of a notebook is not a file
        if self.seconds and file is not None and time.monotonic() - self._fed > min(1.0, self.seconds / 4):
            self._fed = time.monotonic()
            faulthandler.dump_traceback_later(self.seconds, repeat=True, file=file)

    def __enter__(self) -> "StallTimer":
        self.feed()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.seconds:
            faulthandler.cancel_dump_traceback_later()
