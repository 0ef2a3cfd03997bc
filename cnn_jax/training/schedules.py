"""From config.optim.schedule to a learning rate for every step, and the plateau, which validations decide."""

import collections
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.config.durations import whole
from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check

Schedule = Callable[[jax.Array], jax.Array]
Shape = Callable[[Any], Any]  # step -> factor of the peak


def peak(config: Any) -> float:
    """Returns the peak of the learning rate of a configuration.

    With config.optim.base_batch_size it is proportional to the batch (Goyal et al. 2017, section 2.1).
    """
    base = config.optim.base_batch_size
    return config.optim.learning_rate * (config.batch_size / base if base else 1)


def make_schedule(
    config: Any, total_steps: int, in_steps: Callable[[str], float], *, peak: float | None = None
) -> Schedule:
    """Returns step -> learning rate (float32).

    A warm-up overrides the beginning of the schedule. Cosine, its restarts and polynomial begin at the end of the
    warm-up and reach `total_steps`; all others count from step 0. The shapes are those of optax.

    Args:
      config: config.optim.
      in_steps: converts a duration to steps, with their fraction.
      peak: highest learning rate; None: config.optim.learning_rate.

    Raises:
      UserError: the warm-up is as long as training, a boundary is impossible, the last cycle is cut short, or a
        schedule of the user's own fails.
    """
    schedule = config.schedule
    highest: float = config.learning_rate if peak is None else peak
    warmup = whole(in_steps(schedule.warmup))
    check(
        warmup < total_steps,
        f"config.optim.schedule.warmup is {schedule.warmup!r} = {warmup} steps, but training has {total_steps}: set "
        "config.optim.schedule.warmup='0 steps', or a longer config.duration",
    )
    constant = schedule.warmup_shape == "constant" or warmup == 0
    start = (
        optax.constant_schedule(schedule.warmup_start)
        if constant
        else optax.linear_schedule(schedule.warmup_start, 1.0, warmup)
    )
    own = imports.is_path(schedule.name)
    curve = _own(schedule.name, total_steps, highest) if own else _shape(schedule, total_steps, warmup, in_steps)

    def learning_rate(step: jax.Array) -> jax.Array:
        rate = curve(step) if own else highest * curve(step)
        return jnp.asarray(jnp.where(step < warmup, highest * start(step), rate), jnp.float32)

    return learning_rate


def _shape(schedule: Any, total_steps: int, warmup: int, in_steps: Callable[[str], float]) -> Shape:
    """Returns step -> factor of the peak, after the warm-up of `warmup` whole steps."""
    rest = total_steps - warmup
    name, end = schedule.name, schedule.end
    if name == "steps":
        drops = collections.Counter(whole(in_steps(boundary)) for boundary in schedule.boundaries)
        return optax.piecewise_constant_schedule(1.0, {step: schedule.factor**n for step, n in drops.items()})
    if name == "cosine":
        cosine = optax.cosine_decay_schedule(1.0, rest, end)
        return lambda step: cosine(step - warmup)
    if name == "cosine_restarts":
        return _cosine_restarts(schedule, total_steps, warmup, in_steps)
    if name == "one_cycle":
        intervals = total_steps - 1  # the last step has the last learning rate
        check(
            0 < int(schedule.pct_start * intervals) < intervals,
            f"config.optim.schedule.pct_start is {schedule.pct_start}, but training has {total_steps} steps: "
            "too few to rise and fall; set another config.optim.schedule.name, or a longer config.duration",
        )
        return optax.cosine_onecycle_schedule(
            intervals, 1.0, schedule.pct_start, schedule.div_factor, schedule.final_div_factor
        )
    if name == "polynomial":
        return optax.polynomial_schedule(1.0, end, schedule.power, rest, warmup)
    if name == "warmup_stable_decay":
        cooldown = max(1, round(schedule.cooldown * total_steps))
        check(
            warmup + cooldown <= total_steps,
            f"config.optim.schedule.warmup is {schedule.warmup!r} = {warmup} steps and config.optim.schedule.cooldown "
            f"{schedule.cooldown} = {cooldown} steps, but training has {total_steps}: set a shorter one of them",
        )
        return optax.polynomial_schedule(1.0, end, schedule.power, cooldown, total_steps - cooldown)
    if name == "exponential":
        return optax.exponential_decay(1.0, whole(in_steps(schedule.interval)), schedule.factor, staircase=True)
    return optax.constant_schedule(1.0)  # constant; plateau scales it from outside


def _cosine_restarts(schedule: Any, total_steps: int, warmup: int, in_steps: Callable[[str], float]) -> Shape:
    """Returns the shape of cosines one after another, each `cycle_factor` as long as the one before it.

    Loshchilov & Hutter 2017, "SGDR", equation 5. Each cycle ends at the whole step nearest to its end.
    """
    field = f"config.optim.schedule.cycle is {schedule.cycle!r}"
    first, rest = max(1.0, in_steps(schedule.cycle)), total_steps - warmup
    check(
        whole(first) <= rest,
        f"{field} = {whole(first)} steps, but {rest} are left after the warm-up: set a shorter one",
    )
    begin, length = in_steps(schedule.warmup), 0.0  # of all cycles, in first ones
    bounds = [0]
    for cycle in itertools.count():
        length += schedule.cycle_factor**cycle
        bounds.append(round(round(begin + first * length, 6)) - warmup)  # 6 digits: a half may come out just below
        if bounds[-1] >= rest:
            break
    starts, lengths = np.array(bounds[:-1]), np.diff(bounds)
    left = rest - starts[-1]
    fits = (total_steps - begin) / (length - schedule.cycle_factor**cycle or 1)
    check(
        2 * left >= lengths[-1],
        f"{field}, so training ends {left} steps into a cycle of {lengths[-1]}, with a high learning rate: set "
        f"config.optim.schedule.cycle='{round(fits, 3):.10g} steps', of which {cycle} cycles fill the {rest} steps",
    )
    cosine = optax.cosine_decay_schedule(1.0, 1, schedule.end)

    def shape(step: Any) -> Any:
        step = jnp.clip(step - warmup, 0, rest - 1)
        cycle = jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1
        return cosine((step - jnp.asarray(starts)[cycle]) / jnp.asarray(lengths)[cycle])

    return shape


def _own(path: str, total_steps: int, peak: float) -> Shape:
    """Returns the schedule that a function of the user's own returns for (total steps, peak).

    Raises:
      UserError: there is no such function, it fails, or what it returns is not a learning rate.
    """
    field = f"config.optim.schedule.name is {path!r}"
    function = imports.load(path, field="config.optim.schedule.name")
    form = "a function of (total steps, peak) that returns a function of the step"
    check(callable(function), f"{field}, which must be {form}")
    try:
        schedule = function(total_steps, peak)
        check(callable(schedule), f"{field}, which returns {schedule!r}, but must be {form}")
        steps = jnp.unique(jnp.asarray([0, total_steps // 2, total_steps - 1], jnp.int32))
        rates = jax.jit(jax.vmap(schedule))(steps)
    except UserError:
        raise
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ):
        raise UserError(
            f"{field}, but it needs the value of the step, which only the compiled program knows: use jnp.where "
            "instead of `if`, and jnp.asarray of a table that the step indexes"
        ) from None
    except Exception as error:
        raise UserError(f"{field}, which must be {form}, but fails: {type(error).__name__}: {error}") from None
    is_number = isinstance(rates, jax.Array) and rates.shape == steps.shape
    check(
        is_number and any(jnp.issubdtype(rates.dtype, kind) for kind in (jnp.floating, jnp.integer)),
        f"{field}, but the returned function must return one real number for a step, such as 0.1",
    )
    for step, rate in zip(steps.tolist(), np.asarray(rates).tolist(), strict=True):
        check(
            0 <= rate < np.inf,
            f"{field}, whose learning rate at step {step} is {rate:g}, but must be finite and not negative",
        )
    return schedule


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
