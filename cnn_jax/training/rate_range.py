"""The learning-rate range test: a short training whose rate rises, to see between which rates a network learns.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from cnn_jax.core.errors import UserError, check
from cnn_jax.display import terminal
from cnn_jax.display.plots import save, subplots
from cnn_jax.parallel import collectives
from cnn_jax.training.setup import build
from cnn_jax.training.state import States

LOWEST, HIGHEST = 1e-5, 10.0
STEPS = 200
AROUND = 12  # losses to each side, for a mean and for a slope
LEAST = 0.02  # of the first loss: what it must fall by around one rate
DIVERGED = 4.0  # times the lowest loss


def rising(total_steps: int, peak: float) -> Any:
    """Returns step -> learning rate, from `LOWEST` to `HIGHEST` in equal ratios; `peak` has no part in it."""
    return lambda step: LOWEST * (HIGHEST / LOWEST) ** (jnp.asarray(step, jnp.float32) / max(1, total_steps - 1))


def find(config: Any, path: Path, console: Console) -> float:
    """Trains with a rising learning rate, draws the loss over it into `path`, and returns the rate to try.

    That is the rate at which the loss falls fastest. Nothing else is written, and no test example is read.

    Raises:
      UserError: see `setup.build`; the loss does not fall at any rate; there are several processes.
    """
    check(jax.process_count() == 1, "--find-lr runs in one process, but this is one of several: start one")
    given = config.optim.learning_rate
    config = config.copy_and_resolve_references()
    config.duration, config.swa_last = f"{STEPS} steps", "0 epochs"
    config.optim.schedule.update(name=f"{__name__}:rising", warmup="0 steps")
    setup = build(config)
    rates, losses = record(setup, console)
    smooth = smoothed(losses)
    suggestion = steepest(rates, losses)
    draw(rates, losses, smooth, suggestion, path, title=f"{config.model.name} on {config.data.name}")
    lowest = float(rates[np.argmin(smooth)])
    terminal.say(console, f"the loss falls fastest at {suggestion:.2g} and is lowest at {lowest:.2g}: {path}")
    note = f"a batch of {config.batch_size}; the configuration has {given:g}"
    terminal.say(console, f"try --config.optim.learning_rate={suggestion:.2g} ({note})")
    return suggestion


def record(setup: Any, console: Console) -> tuple[np.ndarray, np.ndarray]:
    """Returns (learning rates, losses) of the steps until the loss is several times the lowest one, float64 [steps]."""
    states = States(setup)
    state, part, images = states.create(), setup.data.parts["train"], setup.resident("train")
    train_step = setup.train_step(states.shardings)
    rates, losses, before = [], [], 0.0
    with terminal.waiting(console, f"training {STEPS} steps with a rising learning rate"):
        for step, batch in enumerate(part.train_batches(0, STEPS, setup.config.batch_size)):
            state = train_step(state, setup.put(batch), images)
            total = float(collectives.fetch(state.sums["loss"]))
            if not math.isfinite(total):
                break
            rates.append(float(setup.schedule(jnp.int32(step))))
            losses.append((total - before) / setup.config.batch_size)
            before = total
            if losses[-1] > DIVERGED * min(losses) and step > 2 * AROUND:
                break
    return np.array(rates), np.array(losses)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Returns the mean of each loss and its neighbors to both sides, `AROUND` of them where there are so many."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    steps = np.arange(len(losses))
    low, high = np.maximum(steps - AROUND, 0), np.minimum(steps + AROUND + 1, len(losses))
    return (sums[high] - sums[low]) / (high - low)


def steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate around which the loss falls fastest over the logarithm of the rate.

    That is the middle of the 2 * `AROUND` + 1 losses whose straight line (least squares) falls most.

    Raises:
      UserError: it does not fall.
    """
    x = np.log(rates)
    middles = range(AROUND, len(losses) - AROUND)
    windows = [slice(i - AROUND, i + AROUND + 1) for i in middles]
    slopes = [np.polyfit(x[window], losses[window], 1)[0] for window in windows]
    falls = -min(slopes, default=0.0) * (x[1] - x[0]) * 2 * AROUND if len(losses) > 1 else 0.0
    if falls < LEAST * losses[: AROUND + 1].mean():
        raise UserError(
            f"--find-lr: the loss falls at no learning rate between {LOWEST:g} and {rates[-1]:.2g}. Look at the data, "
            "or set another config.model.init or a larger config.batch_size"
        )
    return float(rates[middles[int(np.argmin(slopes))]])


def draw(
    rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, suggestion: float, path: Path, *, title: str
) -> None:
    """Draws the loss over the learning rate."""
    figure, axis = subplots(1, figsize=(7, 4.2), layout="constrained")
    axis.plot(rates, losses, color="C0", lw=0.8, alpha=0.35, label="loss of each step")
    axis.plot(rates, smooth, color="C0", lw=1.8, label=f"mean of {2 * AROUND + 1} steps")
    axis.axvline(suggestion, color="C1", ls="--", label=f"falls fastest: {suggestion:.2g}")
    axis.set_xscale("log")
    axis.set_ylim(0, 1.15 * max(smooth[0], losses[0]))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss, nats")
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
