"""Saving: a state becomes a checkpoint in the background, which counts once it is whole and on the disk.

A checkpoint is written to STEP.N.partial, with its manifest last, and then renamed to STEP. A process that dies at any
moment leaves the earlier checkpoints as they were, and so does a power cut: every file and folder is synced before the
rename, and the rename before anything older is removed.
"""

import contextlib
import gc
import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cnn_jax.checkpoint import manifest
from cnn_jax.checkpoint.manager import Checkpoints, processes
from cnn_jax.core import files
from cnn_jax.core.errors import FolderGoneError, StorageError
from cnn_jax.parallel import collectives

Tree = Any
PAUSES = (0.5, 2.0, 8.0)  # seconds before the next attempts at a write that storage refuses


class Saver:
    """Saves the states of a run, one after the other, while the block runs.

    All processes of a run call it at the same steps. Where they share the folder, each writes its own shards; otherwise
    the first one gathers the state and writes it alone.

    Args:
      keep: checkpoints to keep, the latest ones; the best by validation error stays as well.
      run: what the checkpoints depend on, for their manifests; see `run_folder.identity`.
      report: called with a sentence before a write is tried again.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        keep: int,
        run: Mapping[str, str] | None = None,
        report: Callable[[str], Any] = print,
    ):
        self.checkpoints, self.keep, self.run, self.report = checkpoints, keep, run, report
        self._alone = jax.process_count() == 1 or not checkpoints.shared
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        self._numbers = itertools.count()
        self._refused = False
        self._place: tuple[int, int] | None = None  # of the folder of checkpoints

    def save(self, step: int, state: Tree, *, error: float | None) -> None:
        """Starts to save `state` after the save before is on the disk.

        Args:
          error: the validation error, in [0, 1], or None if there is none.

        Raises:
          StorageError: storage refuses this save or the one before; the earlier checkpoints are whole.
        """
        self.wait()
        copy = _copy(state)
        if self._alone and jax.process_count() > 1:
            copy = collectives.fetch(copy)
        if not self._alone:
            self._running = self._thread.submit(self._finish, self._start(step, copy), step, error)
        elif collectives.is_first():
            self._running = self._thread.submit(self._save_alone, step, copy, error)

    def wait(self) -> None:
        """Blocks until the running save is on the disk; raises StorageError if it failed."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> "Saver":
        logging.getLogger("asyncio").addFilter(_is_news)  # hundreds of lines after the one that says what failed
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._refused:
                gc.collect()  # what is left of such a save speaks when it goes
            logging.getLogger("asyncio").removeFilter(_is_news)

    # ------------------------------------------------------------ one save

    def _save_alone(self, step: int, copy: Tree, error: float | None) -> None:
        """Saves without the other processes; tries again a few times, for storage that refuses for a moment."""
        for pause in (*PAUSES, None):
            try:
                return self._finish(self._start(step, copy), step, error)
            except StorageError as refusal:
                self._refused = True
                if pause is None or isinstance(refusal, FolderGoneError):
                    raise
                self.report(f"{refusal}; trying again in {pause:g} s")
                time.sleep(pause)

    def _start(self, step: int, copy: Tree) -> tuple[ocp.AsyncCheckpointer, Path]:
        """Starts orbax on a folder that no earlier attempt wrote to; returns it with the folder."""
        partial = self.checkpoints.folder / f"{step}.{next(self._numbers)}.partial"
        with self._writing(step, partial):
            if collectives.is_first():
                if self._place is None:
                    files.make_folder(self.checkpoints.folder)
                    self._place = files.inode(self.checkpoints.folder)
                shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                partial.mkdir()  # not its parents: the run's folder may have been moved
                files.sync_folder(self.checkpoints.folder)
            if not self._alone:
                collectives.meet(f"folder of {partial.name}")
            who = processes(shared=not self._alone)
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=who)
            orbax = ocp.AsyncCheckpointer(handler, multiprocessing_options=who)  # its errors may come at a later save
            orbax.save(partial / "state", args=ocp.args.StandardSave(copy))
        return orbax, partial

    def _finish(self, started: tuple[ocp.AsyncCheckpointer, Path], step: int, error: float | None) -> None:
        """Waits for orbax; then the first process completes the checkpoint."""
        orbax, partial = started
        with self._writing(step, partial):
            orbax.close()
            if collectives.is_first():
                manifest.write(partial, step=step, error=error, run=self.run)
                self._publish(partial, step)

    def _publish(self, partial: Path, step: int) -> None:
        """Gives a complete checkpoint its name, then removes those that need not stay."""
        folder = self.checkpoints.folder
        final = folder / str(step)
        before = final.rename(final.with_name(f"{step}.removed.partial")) if final.exists() else None
        partial.rename(final)
        files.sync_folder(folder)
        if before is not None:
            files.remove(before)
        best = self.checkpoints.best()
        for old in self.checkpoints.steps()[: -self.keep]:
            if old != best:
                self._remove(folder / str(old))

    def _remove(self, checkpoint: Path) -> None:
        """Removes a checkpoint; a process that dies meanwhile leaves none that looks whole."""
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.removed.partial")))

    @contextlib.contextmanager
    def _writing(self, step: int, partial: Path) -> Iterator[None]:
        """Raises StorageError where storage refuses a save; removes what was written if anything fails."""
        try:
            with files.storage_errors(f"the checkpoint of step {step:,} cannot be written; the earlier ones are whole"):
                yield
        except BaseException as error:
            if collectives.is_first():
                removed = isinstance(error, Exception) and not isinstance(error, StorageError) and _is_gone(partial)
                shutil.rmtree(partial, ignore_errors=True)
                gone = not self.checkpoints.folder.parent.is_dir()
                if gone or self._place not in (None, files.inode(self.checkpoints.folder)):
                    raise FolderGoneError(self.checkpoints.folder.parent) from error
                if removed:  # by another process, while it was written
                    raise StorageError(f"{partial} was removed while the checkpoint was written to it") from error
            raise


def _is_gone(folder: Path) -> bool:
    """Returns whether a folder is not there; waits a moment for whoever may be removing it, its files first."""
    for pause in (0.1, 0.3, 0.6, 0):
        if not folder.exists():
            return True
        time.sleep(pause)
    return False


def _is_news(record: logging.LogRecord) -> bool:
    """Returns whether a record is not of a write that was running when orbax gave up a save for another one."""
    return record.exc_info is None or "[os_error_code=" not in str(record.exc_info[1])


@jax.jit
def _copy(state: Tree) -> Tree:
    """The next step donates its state, which the background thread still reads."""
    return jax.tree.map(jnp.copy, state)
