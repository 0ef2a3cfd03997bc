"""How a state becomes files: in the background, again where storage refuses, by one process or by all together."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cnn_jax import together
from cnn_jax.errors import StorageError
from cnn_jax.workdir import retried, storage_errors

Tree = Any


class Saver:
    """Writes states into FOLDER/STEP.partial/state, one after the other.

    Args:
      shared: whether all processes see `folder`; then they write together, each its own shards. If not, each is alone
        with its files, and the first gathers and writes all.
      retry: seconds for which what storage refuses is tried again. report: is called with a sentence then.
      complete: is called with (step, error) by the first process, in the background, when all files of a state are
        there; an error of storage that it raises is a refusal, too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shared: bool,
        retry: float,
        report: Callable[[str], Any],
        complete: Callable[[int, float | None], None],
    ):
        self.folder, self.shared, self.retry, self.report, self.complete = folder, shared, retry, report, complete
        self._together = jax.process_count() > 1 and shared
        who = ocp.options.MultiprocessingOptions()
        if not shared:
            who = ocp.options.MultiprocessingOptions(jax.process_index(), {jax.process_index()})
        # Orbax's own barrier would wait for a process that storage has refused.
        options = ocp.options.AsyncOptions(barrier_sync_fn=self._meet if self._together else None)
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=who)
        self.orbax = ocp.AsyncCheckpointer(handler, multiprocessing_options=who, async_options=options)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future | None = None
        self._failed: Path | None = None
        self._unfinished: tuple[int, Tree, float | None] | None = None  # what all save, until all have done it
        self._attempt: together.Attempt | None = None  # at it

    def save(self, step: int, state: Tree, error: float | None) -> None:
        """Starts to save `state`, after the save before.

        Raises:
          StorageError: that one failed, or this one cannot begin.
        """
        self.wait()
        copy = _copy(state)
        if jax.process_count() > 1 and not self.shared:
            copy = together.fetch(copy)
        if self._together:
            self._unfinished = step, copy, error
            try:
                self._begin_together()
            except StorageError:
                self.wait()  # tries again
        elif together.is_first():
            self._running = self._thread.submit(self._save, step, copy, error)

    def wait(self) -> None:
        """Waits until the save under way is on the disk; raises StorageError if it failed.

        One of several processes is begun again here, by all of them, where storage has refused one of them.
        """
        if self._unfinished is None:
            self._finish()
            return
        self._retried(self._unfinished[0], self._finish_together)
        self._unfinished = None

    def _finish(self) -> None:
        """Waits for what this process has to do; the others may not have finished."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> "Saver":
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._report
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Waits for the save under way; after an error not for other processes, which may be elsewhere."""
        try:
            self.wait() if kind is None else self._finish()
        finally:
            self._thread.shutdown()
            self.orbax.close()
            sys.unraisablehook = self._hook
            if self._failed is not None:  # orbax may have gone on writing after its error
                shutil.rmtree(self._failed, ignore_errors=True)

    # ------------------------------------------------------------ one process

    def _save(self, step: int, copy: Tree, error: float | None) -> None:
        def attempt() -> None:
            with self._writing(step):
                self._begin(step, copy)
                self._complete(step, error)

        self._retried(step, attempt)

    def _retried(self, step: int, attempt: Callable[[], None]) -> None:
        retried(attempt, what=f"the checkpoint of step {step:,}", seconds=self.retry, report=self.report)

    def _begin(self, step: int, copy: Tree) -> None:
        partial = self.folder / f"{step}.partial"
        if together.is_first():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        if self._together:
            self._meet(key="folder")
        self.orbax.save(partial / "state", args=ocp.args.StandardSave(copy))

    def _complete(self, step: int, error: float | None) -> None:
        self.orbax.wait_until_finished()
        if together.is_first():
            self.complete(step, error)

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Ends in a StorageError if the files cannot be written, and leaves nothing of them."""
        try:
            with storage_errors(f"the checkpoint of step {step:,} cannot be written; the earlier ones are whole"):
                yield
        except StorageError:
            self._failed = self.folder / f"{step}.partial"
            if not self._together:  # others may write there still
                shutil.rmtree(self._failed, ignore_errors=True)
            raise

    def _report(self, unraisable: Any) -> None:
        """Leaves out what tensorstore says of each array of a write that failed: orbax has raised its error."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)

    # ------------------------------------------------------------ all processes
    # They begin in the threads of their computations, by which orbax meets, and write in the background. Who is refused
    # tells the others, which would wait for it; so all know when they come to `wait`.

    def _begin_together(self) -> None:
        assert self._unfinished is not None
        step, copy, error = self._unfinished
        before, self._attempt = self._attempt, together.Attempt()
        self._attempt.meet("begin")  # nobody is at the files of the one before
        if before is not None:
            before.forget()
        with self._sharing(step):
            self._begin(step, copy)
        self._running = self._thread.submit(self._complete_together, step, error)

    def _complete_together(self, step: int, error: float | None) -> None:
        with self._sharing(step):
            self._complete(step, error)

    def _finish_together(self) -> None:
        if self._running is None:
            self._begin_together()
        self._finish()
        self._meet(key="saved")

    @contextlib.contextmanager
    def _sharing(self, step: int) -> Iterator[None]:
        """Ends in a StorageError in all processes if storage refuses one of them."""
        assert self._attempt is not None
        try:
            with self._writing(step):
                yield
        except StorageError as error:
            self._attempt.fail(str(error))
            raise
        except Exception as error:  # such as of files that another process has given up
            if failure := self._attempt.failure():
                raise StorageError(failure) from error
            raise

    def _meet(self, *, key: str, timeout_ms: int = together.PATIENCE) -> None:
        """Returns when all processes are at `key`: the barrier of orbax's background threads, too."""
        assert self._attempt is not None
        self._attempt.meet(key, timeout_ms / 1000)


@jax.jit
def _copy(state: Tree) -> Tree:
    """The next step donates its state, which the background thread still reads."""
    return jax.tree.map(jnp.copy, state)
