"""Averages of the weights of a run, which evaluation and checkpoints use instead.

ema: exponential, in every step, with a decay of at most (1 + t) / (10 + t) after t steps.
swa: the mean of the weights at equal distances over the last part of training (Izmailov et al. 2018, "Averaging Weights
Leads to Wider Optima and Better Generalization", algorithm 1). Before that part it is a copy of the weights.

The averages have statistics of BatchNorm, too. Those of the exponential average are averaged. The mean of weights that
are far apart has others, which `with_statistics` computes from training data before they are used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.config.durations import parse_duration, whole
from cnn_jax.core import trees
from cnn_jax.core.errors import check
from cnn_jax.eval import evaluation
from cnn_jax.eval import steps as eval_steps

Tree = Any


@dataclass(frozen=True)
class EMA:
    """The exponential moving average."""

    decay: float

    def update(self, step: jax.Array, average: Tree, new: Tree) -> Tree:
        """Returns the average after `step` + 1 steps, which ended with `new`."""
        decay = jnp.minimum(self.decay, (1 + step) / (10 + step))
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, new)


@dataclass(frozen=True)
class SWA:
    """The mean of the weights after the steps `steps`, which rise to the last one."""

    steps: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.steps[0]

    def check_resumes(self, step: int) -> None:
        """Raises UserError if a checkpoint of `step`, of a run with an earlier end, lacks a state of this mean.

        Until `first` the average is a copy of the weights, whatever it was before.
        """
        check(
            step < self.first,
            f"--extend: the mean of weights (config.swa_last) would now begin at step {self.first}, but the checkpoint "
            f"of step {step} is past it and has the mean of other steps: set config.duration to at least "
            f"'{step + 1 + self.steps[-1] - self.first} steps', so that the mean begins after the checkpoint",
        )

    def update(self, step: jax.Array, average: Tree, new: Tree) -> Tree:
        """Returns the average after `step` + 1 steps, which ended with `new`."""
        steps = jnp.asarray(self.steps, jnp.int32)
        done = jnp.searchsorted(steps, step + 1, side="right")
        count = jnp.maximum(done, 1)
        is_due = steps[count - 1] == step + 1

        def mean(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(count == 1, new, old + (new - old) / count)

        def one(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(done == 0, new, jnp.where(is_due, mean(old, new), old))

        return jax.tree.map(one, average, new)


def has_average(config: Any) -> bool:
    """Returns whether a run has an average of its weights."""
    return config.ema_decay > 0 or parse_duration(config.swa_last)[0] > 0


def make_average(config: Any, total_steps: int, in_steps: Callable[[str], float]) -> EMA | SWA | None:
    """Returns the average that a configuration asks for, or None.

    SWA averages round(swa_last / swa_every) states: the last one, and those at the steps nearest to each swa_every
    before it.

    Args:
      in_steps: converts a duration to steps, with their fraction.

    Raises:
      UserError: it asks for both, for more steps than there are, or for a mean of one state.
    """
    last = in_steps(config.swa_last)
    if not last:
        return EMA(config.ema_decay) if config.ema_decay else None
    check(
        config.ema_decay == 0,
        f"config.swa_last is {config.swa_last!r} and config.ema_decay {config.ema_decay}, but a run has one average: "
        "set config.ema_decay=0 or config.swa_last='0 epochs'",
    )
    check(
        whole(last) <= total_steps,
        f"config.swa_last is {config.swa_last!r} = {whole(last)} steps, but training has {total_steps}: set a shorter "
        "one",
    )
    every = max(1.0, in_steps(config.swa_every))
    count = round(last / every)
    check(
        count >= 2,
        f"config.swa_last is {config.swa_last!r} and config.swa_every {config.swa_every!r}, so the average has one "
        "state only: set a shorter config.swa_every",
    )
    return SWA(tuple(total_steps - round(k * every) for k in reversed(range(count))))


def with_statistics(setup: Any, state: Any, shardings: Any, put: Callable[[Any], Any]) -> Any:
    """Returns the state with BatchNorm statistics of its mean of weights, computed from training data.

    Nothing else changes; a state without one stays as it is. The data are the first batches of training, without
    augmentation: as many as config.eval.recompute_statistics says, or those of an epoch.

    Args:
      setup, shardings: of the state. put: places a batch on the devices.
    """
    average, config = setup.average, setup.config
    if not isinstance(average, SWA) or int(state.step) < average.first or not jax.tree.leaves(state.ema["stats"]):
        return state
    statistics = evaluation.recompute_statistics(
        eval_steps.make_statistics_step(setup.network, **setup.data.normalization),
        state.ema["params"],
        trees.merged(state.ema["stats"], state.frozen),
        setup.data.parts["train"],
        setup.resident("train"),
        batch_size=config.batch_size,
        batches=config.eval.recompute_statistics or max(1, round(setup.steps_per_epoch)),
        put=put,
    )
    statistics = jax.device_put(trees.part_like(statistics, state.ema["stats"]), shardings.ema["stats"])
    return replace(state, ema=state.ema | {"stats": statistics})
