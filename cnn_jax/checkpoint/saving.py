"""How a state becomes files: in the background, again where storage refuses, by one process or by all together."""

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cnn_jax.core.errors import StorageError
from cnn_jax.parallel import together
from cnn_jax.tracking.workdir import retried, storage_errors

Tree = Any


def processes(shared: bool) -> ocp.options.MultiprocessingOptions:
    """Returns what orbax has to know: that all processes see the files, or that each is alone with its own."""
    if shared:
        return ocp.options.MultiprocessingOptions()
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


class Saver:
    """Writes states below a folder, one after the other.

    Args:
      shared: whether all processes see `folder`; then they write together, each its own shards. If not, each is alone
        with its files, and the first gathers and writes all.
      retry: seconds for which what storage refuses is tried again. report: is called with a sentence then.
      complete: is called with (folder, step, error) by the first process, in the background, when all files of a state
        are in FOLDER/state; an error of storage that it raises is a refusal, too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shared: bool,
        retry: float,
        report: Callable[[str], Any],
        complete: Callable[[Path, int, float | None], None],
    ):
        self.folder, self.shared, self.retry, self.report, self.complete = folder, shared, retry, report, complete
        self._together = jax.process_count() > 1 and shared
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future | None = None
        self._names = itertools.count()
        self._failed: list[Path] = []
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
            self._retried(step, self._begin_together)
        elif together.is_first():
            self._running = self._thread.submit(self._save, step, copy, error)

    def wait(self) -> None:
        """Waits until the save under way is on the disk; raises StorageError if it failed.

        A save of several processes is begun again here, by all of them, where storage has refused one.
        """
        if unfinished := self._unfinished:
            self._retried(unfinished[0], self._finish_together)
        else:
            self._finish()

    def _finish(self) -> None:
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
            sys.unraisablehook = self._hook
            self._remove_failed()

    # ------------------------------------------------------------ one process

    def _save(self, step: int, copy: Tree, error: float | None) -> None:
        def attempt() -> None:
            partial = self._partial(step)
            with self._writing(step, partial):
                self._complete(self._begin(partial, copy), partial, step, error)

        self._retried(step, attempt)

    def _retried(self, step: int, attempt: Callable[[], None]) -> None:
        retried(attempt, what=f"the checkpoint of step {step:,}", seconds=self.retry, report=self.report)

    def _partial(self, step: int) -> Path:
        """Returns a folder for an attempt: orbax may go on writing into that of one that was refused."""
        self._remove_failed()
        return self.folder / f"{step}.{next(self._names)}.partial"

    def _remove_failed(self) -> None:
        for partial in self._failed if together.is_first() else ():
            shutil.rmtree(partial, ignore_errors=True)

    def _begin(self, partial: Path, copy: Tree, meet: Callable[..., None] | None = None) -> ocp.AsyncCheckpointer:
        """Starts orbax: a new one, because one whose files were refused may raise late errors at its next save."""
        who = processes(self.shared)
        orbax = ocp.AsyncCheckpointer(
            ocp.StandardCheckpointHandler(multiprocessing_options=who),
            multiprocessing_options=who,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=meet),
        )
        if together.is_first():
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir(parents=True)
        if meet:
            meet(key="folder")
        orbax.save(partial / "state", args=ocp.args.StandardSave(copy))
        return orbax

    def _complete(self, orbax: ocp.AsyncCheckpointer, partial: Path, step: int, error: float | None) -> None:
        orbax.close()  # waits for its threads
        if together.is_first():
            self.complete(partial, step, error)

    @contextlib.contextmanager
    def _writing(self, step: int, partial: Path) -> Iterator[None]:
        """Ends in a StorageError if the files cannot be written, and remembers to remove what is left of them."""
        try:
            with storage_errors(f"the checkpoint of step {step:,} cannot be written; the earlier ones are whole"):
                yield
        except StorageError:
            self._failed.append(partial)
            if not self._together:  # others may write there still
                self._remove_failed()
            raise

    def _report(self, unraisable: Any) -> None:
        """Leaves out what tensorstore says of each array of a write that failed: orbax has raised its error."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)

    # ------------------------------------------------------------ all processes
    # They begin in the threads of their computations, by which orbax meets, and write in the background. Who is refused
    # tells the others, which would wait for it; so all know when they come to `wait`. (Only where the first is refused
    # the folder of orbax itself, the others hear of it after the 300 s that orbax waits for it.)

    def _begin_together(self) -> None:
        assert self._unfinished is not None
        step, copy, error = self._unfinished
        before, self._attempt = self._attempt, together.Attempt()
        attempt = self._attempt
        attempt.meet(key="begin")
        if before is not None and before.failure() is None:
            before.forget()
        partial = self._partial(step)
        with self._sharing(step, partial, attempt):
            orbax = self._begin(partial, copy, attempt.meet)
            attempt.meet(key="begun")
        self._running = self._thread.submit(self._complete_together, orbax, partial, step, error, attempt)

    def _complete_together(
        self, orbax: ocp.AsyncCheckpointer, partial: Path, step: int, error: float | None, attempt: together.Attempt
    ) -> None:
        with self._sharing(step, partial, attempt):
            self._complete(orbax, partial, step, error)
            attempt.meet(key="saved")
        self._unfinished = None

    def _finish_together(self) -> None:
        if self._running is None:
            self._begin_together()
        self._finish()

    @contextlib.contextmanager
    def _sharing(self, step: int, partial: Path, attempt: together.Attempt) -> Iterator[None]:
        """Ends in a StorageError in all processes, at their next meeting, if storage refuses one of them."""
        try:
            with self._writing(step, partial):
                yield
        except StorageError as error:
            attempt.fail(str(error))
            raise
        except Exception as error:  # such as of files that another process has given up
            if failure := attempt.failure():
                raise StorageError(failure) from error
            raise


@jax.jit
def _copy(state: Tree) -> Tree:
    """The next step donates its state, which the background thread still reads."""
    return jax.tree.map(jnp.copy, state)
