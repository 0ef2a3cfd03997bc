"""What every thread is doing, when nothing goes on: of a run whose input, network or other processes hang."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


class StallWatch:
    """While the block runs, `count()` that stays the same for `seconds` is reported on standard error.

    With the Python stacks of all threads, and again after each further `seconds` of standstill. The run goes on, or
    hangs on: whether to end it is for people, or for the cluster's time limit, to say.

    Args:
      seconds: 0 is never. count: batches so far, or the like. doing: says what is under way.
    """

    def __init__(self, seconds: float, count: Callable[[], int], doing: Callable[[], str]):
        self.seconds, self.count, self.doing = seconds, count, doing
        self._end = threading.Event()

    def __enter__(self) -> "StallWatch":
        if self.seconds:
            threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()

    def _watch(self) -> None:
        seen, since = self.count(), time.monotonic()
        while not self._end.wait(min(1.0, self.seconds / 4)):
            if self.count() != seen:
                seen, since = self.count(), time.monotonic()
            elif time.monotonic() - since >= self.seconds:
                print(f"warning: {self.doing()}, nothing has gone on for {self.seconds:g} s:", file=sys.stderr)
                sys.stderr.flush()
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                since = time.monotonic()
