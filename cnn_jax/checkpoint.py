"""Checkpoints: orbax, asynchronous; the latest few and the best by validation error stay."""

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from cnn_jax import trees
from cnn_jax.errors import UserError

Tree = Any


def _negative_error(metrics: Any) -> float:
    return -metrics["error"]


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints, named by the number of steps done.

    Each holds the whole TrainState; the data position is its step. Saves run in the background.
    """

    def __init__(self, workdir: Path, *, keep: int = 1):
        policy = AnyPreservationPolicy([LatestN(keep), BestN(get_metric_fn=_negative_error, n=1)])
        options = ocp.CheckpointManagerOptions(best_fn=_negative_error, preservation_policy=policy)
        self.folder = workdir.resolve() / "checkpoints"  # orbax fails late on a relative path
        handlers = {"state": ocp.StandardCheckpointHandler()}
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def latest(self) -> int | None:
        """Returns the step of the latest checkpoint, or None."""
        return self.manager.latest_step()

    def select(self, which: str) -> int:
        """Returns the step that "latest", "best" or a number means; raises UserError if there is no such one."""
        steps = sorted(self.manager.all_steps())
        if not steps:
            raise UserError(f"no checkpoint in {self.folder}: train first, with --workdir={self.folder.parent}")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self.manager.best_step() or steps[-1]
            if math.isinf(self.manager.metrics(best)["error"]):  # pyright: ignore[reportOptionalSubscript]
                raise UserError(f"no checkpoint in {self.folder} has a validation error: use --checkpoint=latest")
            return best
        if which.isdigit() and int(which) in steps:
            return int(which)
        raise UserError(
            f"--checkpoint is {which!r}, but must be latest, best or one of the steps {', '.join(map(str, steps))}"
        )

    def best_error(self) -> float:
        """Returns the lowest validation error of the checkpoints, infinity if none has one."""
        errors = [info["error"] for info in map(self.manager.metrics, self.manager.all_steps()) if info]
        return min(errors, default=math.inf)

    def save(self, step: int, state: Tree, *, error: float | None) -> None:
        """Starts to save `state`; `error` is the validation error, in [0, 1], or None if there is none."""
        metrics = {"error": math.inf if error is None else error}  # without one it is never the best
        # A copy: the next step donates the buffers that the background thread still reads.
        state = jax.tree.map(lambda x: x.copy(), state)
        self.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics=metrics)

    def restore(self, step: int, like: Tree) -> Tree:
        """Returns the state of `step` with the structure, types and shardings of `like` (arrays or shapes).

        Raises:
          UserError: the checkpoint has other arrays than `like`: another network, or another optimiser.
        """
        stored = {name: leaf.shape for name, leaf in trees.named_leaves(self.manager.item_metadata(step).state)}
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
        return self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        """Waits for running saves."""
        self.manager.wait_until_finished()
        self.manager.close()
