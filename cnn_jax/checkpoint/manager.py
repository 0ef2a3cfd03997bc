"""The checkpoints of a run: which there are, which are whole, and how they are restored. `saver` writes them.

    WORKDIR/checkpoints/200/state/         orbax's files
    WORKDIR/checkpoints/200/manifest.json  step, validation error, size and SHA-256 of every file; written last

Orbax reads a flipped bit in silence; the manifest does not.
"""

import itertools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnn_jax.checkpoint import manifest
from cnn_jax.core import files, trees
from cnn_jax.core.errors import StorageError, UserError

Tree = Any
ATTEMPTS = 20  # to read a checkpoint of a run that keeps saving
STEP = re.compile(r"0|[1-9][0-9]*")  # the name of a checkpoint's folder


def processes(*, shared: bool) -> ocp.options.MultiprocessingOptions:
    """Returns what orbax has to know: all processes see the files, or each has its own."""
    if shared:
        return ocp.options.MultiprocessingOptions()
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints, named by the number of steps done.

    Each holds the whole TrainState; the data position is its step. Any process may read them. The processes of one run
    restore together.

    Args:
      shared: whether all processes of the run see `workdir`; if not, each restores from a copy of its own.
    """

    def __init__(self, workdir: Path, *, shared: bool = True):
        self.folder = workdir.resolve() / "checkpoints"  # orbax fails late on a relative path
        self.shared = shared
        who = processes(shared=shared)
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=who)
        self._orbax = ocp.Checkpointer(handler, multiprocessing_options=who)

    # ------------------------------------------------------------ what is there

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order; some may be damaged."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if STEP.fullmatch(name))

    def best(self) -> int | None:
        """Returns the step of the lowest validation error, the first of equals, or None if none was validated."""
        errors = {step: manifest.error(self.folder / str(step)) for step in self.steps()}
        validated = [step for step, error in errors.items() if error < math.inf]
        return min(validated, key=lambda step: (errors[step], step), default=None)

    def best_error(self) -> float:
        """Returns the lowest validation error of the checkpoints, infinity if none has one."""
        best = self.best()
        return math.inf if best is None else manifest.error(self.folder / str(best))

    def run(self, step: int) -> dict[str, str]:
        """Returns the identity of the run that saved a whole checkpoint, as `Saver` got it; {} if it got none."""
        return dict(manifest.read(self.folder / str(step)).get("run", {}))

    def damage(self, step: int) -> str | None:
        """Returns what is wrong with the files of a checkpoint, or None if they are those that were saved."""
        return manifest.damage(self.folder / str(step))

    # ------------------------------------------------------------ choose

    def latest(self, report: Callable[[str], Any], *, tidy: bool = False) -> int | None:
        """Returns the latest step whose checkpoint is whole, or None if there are no checkpoints at all.

        Args:
          report: is called with a sentence for every damaged checkpoint that is passed over.
          tidy: renames those to STEP.damaged, so that the resumed run can save at that step again, and removes
            what a process that died left half-written.

        Raises:
          StorageError: there are checkpoints, but none is whole.
        """
        for left_over in self.folder.glob("*.partial") if tidy else ():
            files.remove(left_over)
        for stray in sorted(self.folder.glob("*")):
            if not STEP.fullmatch(stray.name) and stray.suffix not in (".partial", ".damaged"):
                report(f"{stray} is not read: a checkpoint is called by its step, such as 100")
        damaged = []
        for step in reversed(self.steps()):
            problem = self.damage(step)
            if problem is None:
                for other in damaged if tidy else ():
                    files.remove(self.folder / f"{other}.damaged")
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
        elif STEP.fullmatch(which) and int(which) in steps:
            step = int(which)
        else:
            raise UserError(
                f"{flag} is {which!r}, but must be latest, best or one of the steps {', '.join(map(str, steps))}"
            )
        problem = self.damage(step)
        if problem:
            raise StorageError(f"the checkpoint of step {step:,} is damaged: {problem}: use --checkpoint=latest")
        return step

    def read_chosen(
        self,
        which: str,
        read: Callable[[int], Any],
        report: Callable[[str], Any] = lambda text: None,
        *,
        flag: str = "--checkpoint",
    ) -> tuple[int, Any]:
        """Returns (step, what `read` returns of it) of the checkpoint that `select` chooses.

        A run that trains may remove a checkpoint while it is read: then another one is chosen.

        Args:
          report, flag: of `select`.

        Raises:
          UserError, StorageError: see `select`.
        """
        for attempt in itertools.count(1):
            before = self.steps()
            try:
                step = self.select(which, report, flag=flag)
                return step, read(step)
            except Exception:  # of whatever kind: files go while orbax reads them
                if attempt == ATTEMPTS or set(before) <= set(self.steps()):
                    raise
                time.sleep(0.05 * attempt)
        raise AssertionError

    # ------------------------------------------------------------ restore

    def restore(self, step: int, like: Tree) -> Tree:
        """Returns the state of `step` with the structure, types and shardings of `like` (arrays or shapes).

        Raises:
          UserError: the checkpoint has other arrays than `like`: another network, or another optimizer.
        """
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

        The moving average stands instead of what it averages, as in an evaluation. Statistics are those of the
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
        return self

    def __exit__(self, *_: Any) -> None:
        self._orbax.close()
