"""From config.optim to an optax transformation and a learning-rate schedule.

The learning rate is an argument of the update, not a secret of the optimizer: the step computes it as
schedule(step) x plateau scale, logs it, and hands it over. As in `optax.sgd` and `torch.optim.SGD` it multiplies
outside the momentum buffer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.core import trees
from cnn_jax.core.errors import check

Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(config: Any, total_steps: int, to_steps: Callable[[str], int]) -> Schedule:
    """Returns step -> learning rate (float32).

    The shape of the schedule counts from step 0; a warm-up overrides its beginning. Cosine and polynomial run from
    the end of the warm-up to `total_steps`.

    Args:
      config: config.optim.
      to_steps: converts a duration to steps.
    """
    schedule = config.schedule
    peak = config.learning_rate
    warmup = to_steps(schedule.warmup)
    check(
        warmup < total_steps,
        f"config.optim.schedule.warmup is {schedule.warmup!r} = {warmup} steps, but training has {total_steps}: set "
        "config.optim.schedule.warmup='0 steps', or a longer config.duration",
    )
    rest = total_steps - warmup

    def shape(step: jax.Array) -> jax.Array:
        """Factor of the learning rate after the warm-up."""
        progress = jnp.clip((step - warmup) / rest, 0, 1)
        if schedule.name == "steps":
            drops = sum(jnp.where(step >= to_steps(boundary), 1, 0) for boundary in schedule.boundaries)
            return jnp.float32(schedule.factor) ** drops
        if schedule.name == "cosine":
            return schedule.end + (1 - schedule.end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        if schedule.name == "polynomial":
            return schedule.end + (1 - schedule.end) * (1 - progress) ** schedule.power
        if schedule.name == "exponential":
            return jnp.float32(schedule.factor) ** (step // to_steps(schedule.interval))
        return jnp.float32(1)  # constant; plateau scales it from outside

    def learning_rate(step: jax.Array) -> jax.Array:
        start = schedule.warmup_start
        if schedule.warmup_shape == "linear":
            start = start + (1 - start) * step / max(1, warmup)
        return jnp.asarray(peak * jnp.where(step < warmup, start, shape(step)), jnp.float32)

    return learning_rate


def make_optimizer(
    config: Any, params: Any, layer_rules: Sequence[tuple[str, float]] = (), *, everything: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Returns SGD with momentum; its `update` takes the keyword `learning_rate`.

    Order: clip the gradient of the loss, add L2 decay, momentum, decoupled decay, times -learning rate. This equals
    `torch.optim.SGD` (which knows L2 only).

    Args:
      config: config.optim.
      params: the tree of parameters (arrays or shapes) that are trained.
      everything: all parameters, that the rules are matched against; None: `params`.
      layer_rules: (regex, factor) of learning rates, beside config.lr_multipliers; one that matches nothing is none.

    Raises:
      UserError: a rule matches no parameter.
    """
    everything = params if everything is None else everything
    trees.match(everything, config.decay_rule, field="config.optim.decay_rule")
    trees.multipliers(everything, config.lr_multipliers, field="config.optim.lr_multipliers")
    parts = []
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    mask = trees.match(params, config.decay_rule, field=None)
    decay = optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity()
    if config.decay_style == "l2":
        parts.append(decay)
    if config.momentum:
        parts.append(optax.trace(config.momentum, nesterov=config.nesterov))
    if config.decay_style == "decoupled":
        parts.append(decay)
    factors = trees.multipliers(params, config.lr_multipliers, field=None)
    by_layer = trees.multipliers(params, layer_rules, field=None)
    parts.append(_scale_by_learning_rate(jax.tree.map(lambda one, other: one * other, factors, by_layer)))
    return optax.chain(*parts)


def _scale_by_learning_rate(factors: Any) -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return jax.tree.map(lambda u, factor: -extra["learning_rate"] * factor * u, updates, factors), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


# ---------------------------------------------------------------- plateau


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plateau:
    """Division of the learning rate when the validation error stops improving; part of the training state."""

    scale: Any  # float32: factor of the learning rate
    best: Any  # float32: lowest validation error so far, in [0, 1]
    waited: Any  # int32: validations since the last improvement

    @classmethod
    def start(cls) -> "Plateau":
        return cls(scale=jnp.float32(1), best=jnp.float32(jnp.inf), waited=jnp.int32(0))

    def update(self, error: float, schedule: Any) -> "Plateau":
        """Returns the plateau after a validation with `error`; drops after `schedule.patience` without improvement."""
        improved = jnp.float32(error) < self.best - schedule.min_improvement
        waited = jnp.where(improved, 0, self.waited + 1).astype(jnp.int32)
        drop = waited >= schedule.patience
        return Plateau(
            scale=jnp.where(drop, self.scale * schedule.factor, self.scale).astype(jnp.float32),
            best=jnp.where(improved, jnp.float32(error), self.best),
            waited=jnp.where(drop, 0, waited).astype(jnp.int32),
        )
