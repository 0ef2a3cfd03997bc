"""What the processes of one run do together: all of them call each function, at the same point of the program.

In a run of one process each function returns its own argument, and no device is asked.
"""

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from rich.console import Console

from cnn_jax.core.errors import check

PATIENCE = 24 * 3600  # seconds to wait for each other; jax's runtime notices a lost process long before

_meetings = itertools.count()


def is_first() -> bool:
    """Returns whether this process is the one that records, prints and decides."""
    return jax.process_index() == 0


def console() -> Console:
    """Returns the terminal; that of other processes than the first stays silent."""
    return Console(quiet=not is_first())


@contextlib.contextmanager
def records(folder: Path) -> Iterator[Path]:
    """Yields the folder for records: `folder` in process 0, a temporary one in the others.

    All processes so run the same code. Checkpoints, which all of them write, do not go there but into `folder`.
    """
    if is_first():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cnn_jax-") as scratch:
        yield Path(scratch)


def meet(name: str) -> None:
    """Blocks until all processes are here. No device takes part, so the wait may be long."""
    ocp.multihost.sync_global_processes(f"{name} ({next(_meetings)})", timeout=PATIENCE)


def decided(decide: Callable[[], Any]) -> Any:
    """Returns in every process what `decide` returns in the first, which alone calls it: a value that JSON knows.

    It may take long, to read a checkpoint or to wait for a lock: the others meet it before any device is asked, because
    devices that wait for each other give up after 30 s.
    """
    if jax.process_count() == 1:
        return decide()
    text = json.dumps(decide()).encode() if is_first() else b""
    meet("decision")
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text))))
    sent = np.frombuffer(text.ljust(size, b" ")[:size], np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(sent).astype(np.uint8)))


def total(number: int) -> int:
    """Returns the sum of `number` over all processes."""
    return int(np.sum(multihost_utils.process_allgather(np.asarray(number)))) if jax.process_count() > 1 else number


def check_same(what: Mapping[str, Callable[[], str]]) -> None:
    """Raises UserError, in all processes, unless all of them have the same texts: name -> what gives the text."""
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text().encode()).digest() for text in what.values()]
    meet("comparison")
    found = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
    for process, theirs in enumerate(found):
        for name, own, first in zip(what, theirs, found[0], strict=True):
            check(
                bool((own == first).all()),
                f"{name} of process {process} is not that of process 0: start all processes with the same command, the "
                "same version of the program, and copies of the same data",
            )


def fetch(tree: Any) -> Any:
    """Returns arrays of any sharding as NumPy arrays."""

    def gathered(array: Any) -> Any:
        here = not isinstance(array, jax.Array) or array.is_fully_replicated or array.is_fully_addressable
        return array if here else multihost_utils.process_allgather(array, tiled=True)

    return jax.device_get(jax.tree.map(gathered, tree))
