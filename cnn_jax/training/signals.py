"""SIGTERM, SIGINT and SIGHUP as a wish to stop that the training loop grants after its step."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from cnn_jax.core.errors import Stopped

HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP else []))


class StopSignals:
    """While the block runs, the first of `SIGNALS` sets `received`; a second one ends the process at once.

    SIGHUP stays ignored where the process was told to ignore it, as by nohup.

    Until `hold()` was called, and again after `release()`, the first one ends the process at once as well: there is
    nothing to save. With `together`, of several processes, it waits from the start on: they end at the same step. `say`
    is called with a sentence about what happens.

    A thread waits for the signals, because Python's own handlers stay silent while the main thread computes or
    compiles. Outside of the main thread, where Python allows no handlers, the block does nothing.
    """

    def __init__(self, say: Callable[[str], Any], *, together: bool = False):
        self.say = say
        self.received: str | None = None
        self._held = together

    def hold(self) -> None:
        """From now on the first signal waits until the loop looks at `received`."""
        self._held = True

    def release(self) -> None:
        """From now on the first signal ends the process at once; `distributed` tells other processes."""
        self._held = False

    def __enter__(self) -> "StopSignals":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._ours, self._theirs = socket.socketpair()
            self._theirs.setblocking(False)
            self._previous_fd = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
            heard = [n for n in SIGNALS if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, lambda *_: None) for number in heard}
            self._thread = threading.Thread(target=self._watch, name="stop-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._active:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_fd)
            self._theirs.close()  # ends the thread
            self._thread.join()
            self._ours.close()

    def _watch(self) -> None:
        while data := self._ours.recv(1):
            number = data[0]
            if number not in SIGNALS:
                continue
            if self.received:
                os._exit(128 + number)
            name = signal.Signals(number).name
            if not self._held:
                self.say(f"{name}: stopped at once; there was nothing to save")
                os._exit(Stopped.exit_code)
            self.received = name
            self.say(f"{name}: the step under way is finished and saved; a second signal stops at once")
