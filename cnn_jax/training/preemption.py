"""SIGTERM, SIGINT and SIGHUP as a request to stop, which the training loop grants after its step.

Before anything can be saved, and after everything is, a signal ends the process at once by its default action (exit
code 128 + its number). So does a second one, unless it follows within `ECHO`: `timeout` and some schedulers signal a
process and then its group. A thread waits for the signals, because Python's own handlers wait while
the main thread compiles or computes.

In a run of several processes SIGTERM belongs to jax: its runtime tells all processes, and they agree on a step. SIGINT
and SIGHUP are passed on as SIGTERM.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# jax is imported by the functions: a signal may come before.

ECHO = 1.0  # seconds in which a further signal is the same request to stop
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


class StopSignals:
    """While the block runs, a thread waits for signals; SIGHUP stays ignored where it was, as by nohup.

    Enter it before jax is imported: threads inherit that the signals are blocked. Where threads have no signal mask
    (Windows), the block does nothing, and signals keep their default actions.

    Args:
      several: this is one of several processes of a run.
    """

    def __init__(self, *, several: bool = False):
        self.several = several
        self.received: str | None = None  # the name of the signal that asks this process to stop
        self._saving = False
        self._ended = False
        self._at = 0.0  # of the signal that asked, of `time.monotonic`

    def save_first(self, saving: bool) -> None:
        """Sets whether a signal waits until the loop asks `requested`, or ends the process at once."""
        self._saving = saving

    def requested(self, step: int) -> bool:
        """Returns, in all processes alike, whether to stop after `step`; they call it after every step."""
        if self.several:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.received is not None

    def __enter__(self) -> "StopSignals":
        self._thread: threading.Thread | None = None
        if hasattr(signal, "pthread_sigmask") and threading.current_thread() is threading.main_thread():
            waited = {signal.SIGINT, *(() if self.several else (signal.SIGTERM,))}
            if HANGUP and signal.getsignal(HANGUP) is not signal.SIG_IGN:
                waited.add(HANGUP)
            self._interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
            self._thread = threading.Thread(target=self._wait, args=(waited,), name="stop-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._thread is not None:
            assert self._thread.ident is not None
            self._ended = True
            signal.pthread_kill(self._thread.ident, signal.SIGINT)
            self._thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            signal.signal(signal.SIGINT, self._interrupt)

    def _wait(self, waited: set[signal.Signals]) -> None:
        while True:
            number = signal.sigwait(waited)
            if self._ended:
                return
            name = signal.Signals(number).name
            if self.received and time.monotonic() - self._at < ECHO:
                continue
            self._at = time.monotonic()
            if self.several and not self.received:
                self.received = name
                os.kill(os.getpid(), signal.SIGTERM)
            elif self.several or self.received or not self._saving:
                sys.stdout.flush()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
                os.kill(os.getpid(), number)
            else:
                self.received = name
                text = f"{name} received: finishing this step and saving. Send it again to quit now."
                print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def requests(say: Callable[[str], Any]) -> Iterator[list[str]]:
    """Yields a list that gets the name of the first signal; a second one ends the process by its default action.

    For loops in Python, such as that of a sweep over processes, which inherit no signal mask from it.
    """
    received: list[str] = []
    at: list[float] = []

    def handle(number: int, _: Any) -> None:
        if received and time.monotonic() - at[0] < ECHO:
            return
        at.append(time.monotonic())
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(signal.Signals(number).name)
        say(f"{received[0]} received: waiting for the runs to save. Send it again to quit now.")

    heard = {signal.SIGTERM, signal.SIGINT}
    if HANGUP and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        heard.add(HANGUP)
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in heard} if here else {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class NoSignals(StopSignals):
    """Leaves signals alone: for programs that call training and have handlers of their own."""

    def __init__(self):
        super().__init__(several=False)

    def requested(self, step: int) -> bool:
        return False

    def __enter__(self) -> "StopSignals":
        return self

    def __exit__(self, *_: Any) -> None:
        pass
