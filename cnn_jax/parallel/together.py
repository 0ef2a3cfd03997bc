"""What the processes of one run do together. Every function is called by all of them, at the same point of the program.

A process that is alone gets its own answer back, and no device is asked. (`Attempt` is another matter.)
"""

import contextlib
import hashlib
import itertools
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime  # the client has no public name
from jax.experimental import multihost_utils
from rich.console import Console

from cnn_jax.core.errors import StorageError, check

LAG = 2  # steps
PATIENCE = 24 * 3600 * 1000  # milliseconds; who is lost is noticed by `distributed`

_decisions = itertools.count()
_attempts = itertools.count()


def is_first() -> bool:
    """Returns whether this process is the one that records, prints and decides."""
    return jax.process_index() == 0


def console() -> Console:
    """Returns the terminal; that of other processes than the first stays silent."""
    return Console(quiet=not is_first())


@contextlib.contextmanager
def records(folder: Path) -> Iterator[Path]:
    """Yields where this process records: the first in `folder`, the others where it is thrown away.

    So all run the same program. Checkpoints, which all write together, do not go there but into `folder`.
    """
    if is_first():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cnn_jax-") as scratch:
        yield Path(scratch)


def decided(decide: Callable[[], Any]) -> Any:
    """Returns in every process what `decide` returns in the first, which alone calls it: a value that JSON knows.

    It may take long, to read a checkpoint or to wait for a lock: devices that wait for each other give up after 30 s.
    """
    if jax.process_count() == 1:
        return decide()
    client: Any = runtime.global_state.client
    key = f"decided/{next(_decisions)}"
    if is_first():
        client.key_value_set(key, json.dumps(decide()))
    return json.loads(client.blocking_key_value_get(key, PATIENCE))


def anyone(wish: bool) -> bool:
    """Returns whether `wish` is true in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(wish)))) if jax.process_count() > 1 else wish


def total(number: int) -> int:
    """Returns the sum of `number` over all processes."""
    return int(np.sum(multihost_utils.process_allgather(np.asarray(number)))) if jax.process_count() > 1 else number


def check_same(what: Mapping[str, Callable[[], str]]) -> None:
    """Raises UserError, in all processes, unless all of them have the same texts: name -> what gives the text."""
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text().encode()).digest() for text in what.values()]
    found = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
    for process, theirs in enumerate(found):
        for name, own, first in zip(what, theirs, found[0], strict=True):
            check(
                bool((own == first).all()),
                f"{name} of process {process} is not that of process 0: start all processes with the same command, the "
                "same version of the program, and copies of the same data",
            )


class Attempt:
    """What several processes try together though storage may refuse one: the others hear of it where they meet.

    Its meetings need no devices, so that a thread may go to them. Not for a process that is alone.
    """

    def __init__(self):
        self._name = f"attempt/{next(_attempts)}"
        self._client: Any = runtime.global_state.client

    def fail(self, message: str) -> None:
        """Tells the others, once, that this process was refused."""
        if self.failure() is None:
            where = f"process {jax.process_index()} of {jax.process_count()}"
            self._client.key_value_set(f"{self._name}/failed/{jax.process_index()}", f"{message} ({where})")

    def failure(self) -> str | None:
        """Returns what a process that was refused said."""
        said = self._client.key_value_dir_get(f"{self._name}/failed/")
        return said[0][1] if said else None

    def meet(self, *, key: str, timeout_ms: int = PATIENCE) -> None:
        """Returns when all processes are at `key`, each once. Orbax takes it for its barrier.

        Raises:
          StorageError: one was refused, or they have not come within `timeout_ms`.
        """
        self._client.key_value_set(f"{self._name}/{key}/{jax.process_index()}", "")
        until = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < until:
            if failure := self.failure():
                raise StorageError(failure)
            if not is_first():
                try:
                    self._client.blocking_key_value_get(f"{self._name}/{key} has all", 1000)
                    return
                except jax.errors.JaxRuntimeError as error:
                    if "DEADLINE_EXCEEDED" not in str(error):
                        raise
            elif len(self._client.key_value_dir_get(f"{self._name}/{key}/")) == jax.process_count():
                self._client.key_value_set(f"{self._name}/{key} has all", "")
                return
            else:
                time.sleep(0.02)
        raise StorageError(f"not all processes came to {key!r} within {timeout_ms / 1000:.0f} s")

    def forget(self) -> None:
        """Lets the coordinator forget an attempt that is over in all processes."""
        if is_first():
            self._client.key_value_delete(f"{self._name}/")


def fetch(tree: Any) -> Any:
    """Returns arrays of any sharding as NumPy arrays."""

    def whole(array: Any) -> Any:
        here = not isinstance(array, jax.Array) or array.is_fully_replicated or array.is_fully_addressable
        return array if here else multihost_utils.process_allgather(array, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


class Wishes:
    """Answers once for each step whether any process wished to stop, in all processes alike.

    One that trains with others is answered `LAG` steps late, so that no step waits for the answer.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        everywhere = jax.sharding.PartitionSpec(mesh.axis_names)
        self._each = jax.sharding.NamedSharding(mesh, everywhere)
        self._any = jax.jit(lambda wishes: wishes.any(), out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))
        self._asked: deque[jax.Array] = deque()

    def granted(self, wish: bool) -> bool:
        """Takes the wish of this process, and returns what all wished."""
        if jax.process_count() == 1:
            return wish
        wishes = np.full(jax.local_device_count(), wish)
        self._asked.append(self._any(jax.make_array_from_process_local_data(self._each, wishes)))
        return len(self._asked) > LAG and bool(self._asked.popleft())
