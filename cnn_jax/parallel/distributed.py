"""Several processes that train together, by jax's own runtime: how they find each other, and how they end.

Each process computes on its own devices, and all run the same program. Process 0 is the coordinator: the others reach
it at one address, and it notices by their heartbeats who is gone. Where one is lost, the others cannot go on, and
their devices would wait for it for ever: a thread asks the coordinator who lives, and ends the process.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed as runtime  # the client has no public name

from cnn_jax.core.errors import ProcessLost, Stopped, StorageError, UserError, check
from cnn_jax.parallel.cluster import Place, find

GO_ON = "The same command goes on from the latest checkpoint"
POLL = 1.0  # seconds between two looks at the others
FAREWELL = 15.0  # seconds that the coordinator stays for those who have not heard its last word
FAILURES = (RuntimeError, ValueError)  # of jax's runtime
STATUS = re.compile(r"[A-Z_]{6,}: ")  # how an error of jax's runtime begins


@contextlib.contextmanager
def session(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    start_timeout: int = 300,
    heartbeat_timeout: int = 60,
) -> Iterator[None]:
    """Joins the other processes, if there are any, while the block runs; see `find`.

    Inside the block `jax.devices()` are those of all processes. If another process is lost or ends with an error, this
    one ends at once with a message that names it, and with its exit code, or that of `ProcessLost` if it left none.

    Args:
      start_timeout: seconds to wait for the other processes at the start.
      heartbeat_timeout: seconds of silence after which a process counts as lost.

    Raises:
      UserError: the coordinator cannot be reached, or not all processes came.
    """
    place = find(coordinator, processes, process)
    if place is None:
        yield
        return
    others = _Others(place, heartbeat_timeout)
    _join(place, others, start_timeout, heartbeat_timeout)
    try:
        others.check_count()
        yield
    except BaseException as error:
        if isinstance(error, Stopped):  # which all of them are
            others.part()
        else:
            others.leave(error)
        raise
    others.part()


def _join(place: Place, others: "_Others", start_timeout: int, heartbeat_timeout: int) -> None:
    """Starts jax's runtime of several processes."""
    if place.process > 0:
        _wait_for_coordinator(place, start_timeout)
    else:
        _check_free(place)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The signals are ours (`signals`), and who is lost is reported by us.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", True)
    others.catch_abort()
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=place.device,
        cluster_detection_method="deactivate",  # `find` has done it
        initialization_timeout=start_timeout,
        heartbeat_timeout_seconds=heartbeat_timeout,
    )
    others.watch()
    if place.process > 0:
        print(f"{place}: process 0 prints and records", flush=True)


def _check_free(place: Place) -> None:
    """Raises UserError if another program has the coordinator's port: jax's runtime may crash there."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", place.port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"{place} cannot start at {place.coordinator}: {error.strerror}. Give all processes another free port"
        ) from None


def _wait_for_coordinator(place: Place, seconds: float) -> None:
    until, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < until:
        try:
            socket.create_connection((place.host, place.port), timeout=max(0.1, until - time.monotonic())).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.2)
    raise UserError(
        f"{place} cannot reach process 0 at {place.coordinator} within {seconds:g} s: {reason}. Start all "
        "processes, with an address of process 0 that all of them reach, or give a longer --start-timeout"
    )


class _Others:
    """The other processes, as jax's coordinator sees them."""

    def __init__(self, place: Place, heartbeat_timeout: int):
        self.place = place
        self.heartbeat_timeout = heartbeat_timeout
        self.ended = threading.Event()  # from now on nobody is missed
        self.joined = False
        self.first: dict[int, int] = {}  # process -> its incarnation

    # ------------------------------------------------------------ while the run lasts

    def check_count(self) -> None:
        """Raises UserError unless process 0 was told the same number of processes."""
        if self.place.process == 0:
            self.client.key_value_set("processes", str(self.place.processes))
        told = int(self.client.blocking_key_value_get("processes", 60_000))
        check(
            told == self.place.processes,
            f"{self.place} was told of {self.place.processes} processes, but process 0 of {told}: --processes must be "
            "the same everywhere",
        )

    def watch(self) -> None:
        """Begins to look after the others, which are all there."""
        self.joined = True
        threading.Thread(target=self._watch, name="other-processes", daemon=True).start()

    def _watch(self) -> None:
        while not self.ended.wait(POLL):
            try:
                for name, said in self.client.key_value_dir_get("left/"):
                    self._end(int(name.rpartition("/")[2]), **json.loads(said))
                alive = self._alive()
            except FAILURES:  # the coordinator is gone: `catch_abort` reports it
                continue
            self.first = self.first or alive
            for process in range(self.place.processes):
                if process not in alive or alive[process] != self.first[process]:
                    self._end(process)

    @property
    def client(self) -> Any:
        return runtime.global_state.client

    def _alive(self) -> dict[int, int]:
        """Returns process -> incarnation of all that live, when all that live have asked: so one that is stopped, and
        whose heartbeats go on all the same, keeps the others waiting."""
        return self.client.get_live_nodes(list(range(self.place.processes)))

    def _end(self, lost: int, message: str = "", code: int = ProcessLost.exit_code) -> None:
        """Ends this process, because another one is lost or has left with a message."""
        if self.ended.is_set():
            return
        self.ended.set()
        name = f"process {lost}{', the coordinator,' if lost == 0 else ''} of {self.place.processes}"
        why = f"ended: {message}" if message else "is lost: it was killed, or its machine cannot be reached"
        sys.stdout.flush()
        hopeless = message and code not in (StorageError.exit_code, Stopped.exit_code, ProcessLost.exit_code)
        go_on = "" if hopeless else f". {GO_ON}"
        print(f"error: {name} {why}; {self.place} stops, too{go_on}", file=sys.stderr, flush=True)
        if self.place.process == 0:
            self._outlast()
        os._exit(code)

    def catch_abort(self) -> None:
        """Ends with a message where jax's runtime, which has no other way to report it, aborts the process."""

        def aborted(number: int) -> None:
            if self.ended.is_set():
                os._exit(ProcessLost.exit_code)
            if not self.joined:
                print(
                    f"error: not all {self.place.processes} processes came to {self.place.coordinator} in time: start "
                    "all of them, or give a longer --start-timeout",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(UserError.exit_code)
            with contextlib.suppress(OSError):
                socket.create_connection((self.place.host, self.place.port), timeout=5).close()
                return  # it lives: what follows is the abort of another defect
            self._end(0)

        # Python's own handlers run later than the abort.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(int(signal.SIGABRT), self._handler)

    # ------------------------------------------------------------ the end

    def part(self) -> None:
        """Ends the session where all processes come to its end: none leaves before all are there."""
        try:
            self.client.wait_at_barrier("end", 24 * 3600 * 1000)
        except FAILURES:
            self._wait_for_verdict()
            raise
        self.ended.set()
        with contextlib.suppress(*FAILURES):
            self.client.wait_at_barrier("ended", int(FAREWELL * 1000))
        self._disconnect()

    def leave(self, error: BaseException) -> None:
        """Ends the session of this process alone, whose error the others are told."""
        if STATUS.match(str(error)):  # of a collective: the others are more likely to be lost than this one to be wrong
            self._wait_for_verdict()
        self.ended.set()
        code = error.exit_code if isinstance(error, UserError) else 1
        said = json.dumps({"message": str(error) or type(error).__name__, "code": code})
        with contextlib.suppress(*FAILURES):
            self.client.key_value_set(f"left/{self.place.process}", said)
        self._disconnect()

    def _wait_for_verdict(self) -> None:
        """Waits until the thread would have found, and reported, who is lost."""
        time.sleep(self.heartbeat_timeout + 5 * POLL)

    def _disconnect(self) -> None:
        if self.place.process == 0:
            self._outlast()
        with contextlib.suppress(*FAILURES):
            jax.distributed.shutdown()

    def _outlast(self) -> None:
        """Waits until the others have gone: they are aborted where the coordinator goes first."""
        until = time.monotonic() + FAREWELL
        with contextlib.suppress(*FAILURES):
            while len(self._alive()) > 1 and time.monotonic() < until:
                time.sleep(0.1)
