"""Checkpoints: written by orbax in the background, counted only when whole, checked before they are used.

    WORKDIR/checkpoints/200/state/         orbax's files
    WORKDIR/checkpoints/200/manifest.json  step, validation error, size and SHA-256 of every file; written last

A save (`saving`) is made in 200.N.partial and renamed when its manifest stands, so a process that dies at any moment
leaves the earlier checkpoints as they were. Orbax reads a flipped bit in silence; the manifest does not. For a bucket
all of this happens in a folder of this machine, which `storage` then uploads.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnn_jax.checkpoint.saving import Saver, processes
from cnn_jax.checkpoint.storage import MANIFEST, Folder
from cnn_jax.core import trees
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.tracking.workdir import write_text

Tree = Any


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints, named by the number of steps done.

    Each holds the whole TrainState; the data position is its step. The latest `keep` stay, and the best by validation
    error. Only one run may save (see `workdir.locked`); any may read. The processes of one run save and restore
    together, each its own shards, on storage that all of them see. For a bucket the first gathers and saves all, and
    each restores from files of its own.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 1,
        retry: float = 0.0,
        report: Callable[[str], Any] = print,
        storage: Folder | None = None,
    ):
        """Opens the checkpoints.

        Args:
          retry: seconds for which a save that storage refuses is tried again. report: is called with a sentence then.
          storage: of the run, where `workdir` is in it; an ordinary folder, if it is not given.
        """
        self.folder = workdir.resolve() / "checkpoints"  # orbax fails late on a relative path
        self.keep = keep
        self.storage = storage or Folder(workdir)
        self._saver = Saver(
            self.folder, shared=self.storage.shared, retry=retry, report=report, complete=self._complete
        )
        who = processes(self.storage.shared)
        self._orbax = ocp.Checkpointer(
            ocp.StandardCheckpointHandler(multiprocessing_options=who), multiprocessing_options=who
        )

    # ------------------------------------------------------------ what is there

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order; some may be damaged."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def best(self) -> int | None:
        """Returns the step of the lowest validation error, the first of equals, or None if none was validated."""
        errors = {step: self._error(step) for step in self.steps()}
        validated = [step for step, error in errors.items() if error < math.inf]
        return min(validated, key=lambda step: (errors[step], step), default=None)

    def best_error(self) -> float:
        """Returns the lowest validation error of the checkpoints, infinity if none has one."""
        best = self.best()
        return math.inf if best is None else self._error(best)

    def _error(self, step: int) -> float:
        try:
            error = json.loads((self.folder / str(step) / MANIFEST).read_text(encoding="utf-8"))["error"]
        except (OSError, ValueError, KeyError, TypeError):
            return math.inf  # `damage` reports it
        return math.inf if error is None else error

    def damage(self, step: int) -> str | None:
        """Returns what is wrong with the files of a checkpoint, or None if they are those that were saved."""
        folder = self.folder / str(step)
        self.storage.fetch(folder)
        try:
            files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"].items()
            expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files}
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{MANIFEST} cannot be read"
        found = {path.relative_to(folder).as_posix() for path in _files(folder)}
        for name, (size, digest) in expected.items():
            try:
                path = folder / name
                if path.stat().st_size != size:
                    return f"{name} has {path.stat().st_size:,} bytes, but had {size:,} when it was saved"
                if _digest(path) != digest:
                    return f"{name} has changed since it was saved (its SHA-256 differs)"
            except FileNotFoundError:
                return f"{name} is missing"
        unknown = sorted(found - expected.keys())
        return f"{unknown[0]} does not belong to it" if unknown else None

    # ------------------------------------------------------------ choose

    def latest(self, report: Callable[[str], Any], *, tidy: bool = False) -> int | None:
        """Returns the latest step whose checkpoint is whole, or None if there are no checkpoints at all.

        Args:
          report: is called with a sentence for every damaged checkpoint that is passed over.
          tidy: renames those to STEP.damaged, so that the run that goes on can save at that step again, and removes
            what a process that died left half-written.

        Raises:
          StorageError: there are checkpoints, but none is whole.
        """
        for left_over in self.folder.glob("*.partial") if tidy else ():
            shutil.rmtree(left_over)
        damaged = []
        for step in reversed(self.steps()):
            problem = self.damage(step)
            if problem is None:
                for other in damaged if tidy else ():
                    shutil.rmtree(self.folder / f"{other}.damaged", ignore_errors=True)
                    (self.folder / str(other)).rename(self.folder / f"{other}.damaged")
                return step
            report(f"the checkpoint of step {step:,} is damaged: {problem}")
            damaged.append(step)
        if damaged:
            raise StorageError(
                f"no checkpoint in {self.folder} is whole ({problem}): restore the folder from a copy, or remove it to "
                "start from the first step"
            )
        return None

    def select(self, which: str, report: Callable[[str], Any], *, flag: str = "--checkpoint") -> int:
        """Returns the step that "latest", "best" or a number means; `flag` named it, for messages.

        Raises:
          UserError: there is no such checkpoint.
          StorageError: it is damaged; of "latest", all are. `report`: see `latest`.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.folder}: train first, with --workdir={self.folder.parent}")
        if which == "latest":
            latest = self.latest(report)
            assert latest is not None
            return latest
        if which == "best":
            best = self.best()
            if best is None:
                raise UserError(f"no checkpoint in {self.folder} has a validation error: use --checkpoint=latest")
            step = best
        elif which.isdecimal() and int(which) in steps:
            step = int(which)
        else:
            raise UserError(
                f"{flag} is {which!r}, but must be latest, best or one of the steps {', '.join(map(str, steps))}"
            )
        problem = self.damage(step)
        if problem:
            raise StorageError(f"the checkpoint of step {step:,} is damaged: {problem}: use --checkpoint=latest")
        return step

    # ------------------------------------------------------------ save and restore

    def save(self, step: int, state: Tree, *, error: float | None) -> None:
        """Starts to save `state`; `error` is the validation error, in [0, 1], or None if there is none.

        Raises:
          StorageError: this save or the one before could not be written.
        """
        self._saver.save(step, state, error)

    def wait(self) -> None:
        """Waits until the save under way is on the disk; raises StorageError if it failed."""
        self._saver.wait()

    def _complete(self, partial: Path, step: int, error: float | None) -> None:
        """Writes the manifest, gives the checkpoint its name, and removes those that need not stay."""
        final = self.folder / str(step)
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path, flush=True)}
            for path in sorted(_files(partial))
        }
        manifest = {"step": step, "error": error, "files": files}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        if final.exists():
            self._remove(final)
        partial.rename(final)
        steps, best = self.steps(), self.best()
        for old in steps[: -self.keep]:
            if old != best:
                self._remove(self.folder / str(old))
        self.storage.push()

    def _remove(self, checkpoint: Path) -> None:
        """Removes a checkpoint; a process that dies meanwhile leaves none that looks whole."""
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.removed.partial")))

    def restore(self, step: int, like: Tree) -> Tree:
        """Returns the state of `step` with the structure, types and shardings of `like` (arrays or shapes).

        Raises:
          UserError: the checkpoint has other arrays than `like`: another network, or another optimiser.
          StorageError: what this process got of it from a bucket is damaged.
        """
        if not self.storage.shared and (problem := self.damage(step)):
            raise StorageError(f"the checkpoint of step {step:,} is damaged: {problem}")
        path = self.folder / str(step) / "state"
        stored = {name: leaf.shape for name, leaf in trees.named_leaves(self._stored_tree(step))}
        wanted = {name: leaf.shape for name, leaf in trees.named_leaves(like)}
        misfits = [
            f"  {name}: {stored.get(name, 'absent')} in the checkpoint, {wanted.get(name, 'absent')} here"
            for name in sorted(stored | wanted)
            if stored.get(name) != wanted.get(name)
        ]
        if misfits:
            more = [f"  and {len(misfits) - 12} more"] if len(misfits) > 12 else []
            title = f"the checkpoint {self.folder / str(step)} does not fit this configuration:"
            raise UserError("\n".join([title, *misfits[:12], *more]))
        return self._orbax.restore(path, args=ocp.args.StandardRestore(like))

    def read_weights(self, step: int) -> dict[str, np.ndarray]:
        """Returns the parameters and BatchNorm statistics of `step` by their names.

        The moving average stands in the place of what it averages, as in an evaluation. Statistics are those of the
        training, not recomputed ones (config.eval.recompute_statistics). Nothing else of the state is read.
        """
        stored = self._stored_tree(step)
        averaged = "ema" if stored.get("ema") else ""
        wanted = {
            name: stored[name] for name in ("ema" if averaged else "params", "stats", "frozen") if stored.get(name)
        }
        like = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        with ocp.PyTreeCheckpointer() as reader:
            read = reader.restore(
                self.folder / str(step) / "state",
                args=ocp.args.PyTreeRestore(item=wanted, restore_args=like, partial_restore=True),
            )
        averages = read.pop("ema", {})
        parts = [*read.values(), *averages.values()]
        return {name: leaf for part in parts for name, leaf in trees.named_leaves(part)}

    def _stored_tree(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint has, with the shape of each array."""
        found = self._orbax.metadata(self.folder / str(step) / "state").item_metadata
        return found.tree  # pyright: ignore[reportOptionalMemberAccess]

    def __enter__(self) -> "Checkpoints":
        self._saver.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._saver.__exit__(*error)
        self._orbax.close()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]


def _digest(path: Path, *, flush: bool = False) -> str:
    """Returns the SHA-256 of a file, hexadecimal; with `flush` its data are on the disk afterwards."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
