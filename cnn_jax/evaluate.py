"""Exact evaluation: every example of a part exactly once, whatever the batch size."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnn_jax import step
from cnn_jax.data.pipeline import Part

Tree = Any
Put = Callable[[Any], Any]  # places a batch on the devices


def evaluate(
    eval_step: Callable, params: Tree, stats: Tree, part: Part, resident: Any, *, batch_size: int, put: Put
) -> dict:
    """Returns the metrics of a network over a part.

    loss: mean cross-entropy, nats. error and top5_error: shares in [0, 1]. examples: how many were counted.
    skipped: how many could not be read, if the configuration allows that.
    class_accuracy: [K], NaN for a class without examples. confusion: int [K, K], if the step makes it.

    Args:
      eval_step: of `step.make_eval_step`. resident: the part's images on the devices, or None for a stream.
    """
    total: Tree = None
    sums: list[Tree] = []
    for batch in part.test_batches(batch_size):
        # Gathered apart, so that parts of all sizes share one compiled evaluation step.
        sums.append(eval_step(params, stats, gather(put(batch), resident), None))
        if len(sums) == 32:  # sums of a batch are exact counts in float32; over batches they add up in float64
            total, sums = _add(total, sums), []
    total = _add(total, sums) if sums else total
    examples = total["examples"]
    with np.errstate(invalid="ignore"):
        class_accuracy = total["class_correct"] / total["class_examples"]
    metrics = dict(
        loss=float(total["loss"] / examples),
        error=float(1 - total["top1"] / examples),
        top5_error=float(1 - total["top5"] / examples),
        examples=int(examples),
        class_accuracy=class_accuracy,
    )
    if part.config.on_error == "skip":
        metrics["skipped"] = len(part) - metrics["examples"]
    if "confusion" in total:
        metrics["confusion"] = total["confusion"].astype(int)
    return metrics


@jax.jit
def gather(batch: Tree, resident: Tree) -> Tree:
    """`step.gather`, compiled by itself."""
    return step.gather(batch, resident)


def _add(total: Tree, sums: list[Tree]) -> Tree:
    fetched = jax.device_get(sums)
    added = jax.tree.map(lambda *values: np.sum(np.asarray(values, np.float64), axis=0), *fetched)
    return added if total is None else jax.tree.map(np.add, total, added)


def recompute_statistics(
    statistics_step: Callable,
    params: Tree,
    stats: Tree,
    part: Part,
    resident: Any,
    batch_size: int,
    batches: int,
    put: Put,
) -> Tree:
    """Returns BatchNorm statistics averaged, all alike, over the first training batches.

    The step's augmentations are left out; the random crops of a stream are not.

    This is what the ResNet authors did after training, in place of the running averages
    (github.com/KaimingHe/deep-residual-networks, "Disclaimer and known issues").
    """
    mean = None
    for count, batch in enumerate(part.train_batches(0, batches, batch_size), start=1):
        new = statistics_step(params, stats, put(batch), resident)
        mean = new if mean is None else jax.tree.map(lambda old, x, n=count: old + (x - old) / n, mean, new)
    return mean
