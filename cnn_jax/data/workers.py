"""Threads that read ahead: results in order, errors where they belong, and no wait for a worker that is lost.

Pillow and NumPy let other threads run while they decode and resize, so that threads keep all cores at work; processes
would cost seconds to start and a copy of every batch.
"""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any

from cnn_jax.core.errors import UserError


def read_ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    ahead: int,
    timeout: float,
    describe: Callable[[Any], str] = str,
    flag: str = "--config.data.timeout",
) -> Generator[Any, None, None]:
    """Yields function(item) of each item, in order; `workers` threads are at most `ahead` items ahead of what is taken.

    What the function raises, of whatever kind, is raised here instead of its result. The threads end with the
    iterator. They are daemons: one that hangs does not keep the program from ending.

    Args:
      timeout: seconds to wait for one result. describe: says what an item is, for the message.

    Raises:
      UserError: a result did not come in time.
    """
    tasks: queue.SimpleQueue[tuple[Future, Any] | None] = queue.SimpleQueue()
    under_way: collections.deque[tuple[Future, Any]] = collections.deque()

    def work() -> None:
        while (task := tasks.get()) is not None:
            future, item = task
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)
            del task, future, item  # the result belongs to who takes it

    def take() -> Any:
        future, item = under_way.popleft()
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # it is the function's own
                raise
            nonlocal hangs
            hangs = True
            raise UserError(
                f"{describe(item)} could not be read in {timeout:g} s: see whether its storage answers, or give a "
                f"longer {flag}"
            ) from None

    hangs = False
    threads = [threading.Thread(target=work, name=f"worker-{i}", daemon=True) for i in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for item in items:
            task = Future(), item
            under_way.append(task)
            tasks.put(task)
            del task
            if len(under_way) > ahead:
                yield take()
        while under_way:
            yield take()
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                tasks.get_nowait()
        for _ in threads:
            tasks.put(None)
        until = time.monotonic() + (0 if hangs else 1)
        for thread in threads:
            thread.join(max(0, until - time.monotonic()))
