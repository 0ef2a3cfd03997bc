"""Exact evaluation: every example of a part exactly once, whatever the batch size.

`evaluate` sums on the device over single views. Protocols with several views (`eval.protocols`), and ensembles of
networks, average class probabilities: `predict` collects them by example, and `measure` computes the same metrics from
them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.core.errors import UserError, check
from cnn_jax.data.loader import Split
from cnn_jax.eval import steps as eval_steps
from cnn_jax.eval import views
from cnn_jax.parallel import collectives
from cnn_jax.parallel.mesh import IN_FLIGHT, Pace

NOTHING = "none of the examples of a part can be read: check the data set"

Tree = Any
Put = Callable[[Any], Any]  # places a batch on the devices


def evaluate(
    eval_step: Callable, params: Tree, others: Tree, part: Split, resident: Any, *, batch_size: int, put: Put
) -> dict:
    """Returns the metrics of a network over a part.

    loss: mean cross-entropy, nats. error and top5_error: shares in [0, 1]. examples: how many were counted.
    skipped: how many could not be read, if the configuration allows that.
    largest_class: the share of the examples that are of it, which is the accuracy of always naming that class.
    class_accuracy: [K], NaN for a class without examples. balanced_accuracy: the mean of the others (Brodersen et al.
      2010). confusion: int [K, K], if the step makes it.

    Args:
      eval_step: from `eval_steps.make_eval_step`, which explains `params` and `others`.
      resident: the part's images on the devices, or None for a stream.
    """
    total: Tree = None
    sums: list[Tree] = []
    pace = Pace()
    for batch in part.test_batches(batch_size):
        # Gathered separately, so that parts of all sizes share one compiled evaluation step.
        sums.append(eval_step(params, others, gather(put(batch), resident), None))
        pace(sums[-1])
        # Sums of a batch are exact counts in float32; float64 adds them up over batches.
        if len(sums) == IN_FLIGHT:
            total, sums = _add(total, sums), []
    total = _add(total, sums) if sums else total
    return _metrics(total, part)


def predict(
    predict_step: Callable,
    params: Tree,
    others: Tree,
    part: Split,
    resident: Any,
    *,
    protocol: str,
    scales: Sequence[int],
    batch_size: int,
    put: Put,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (class probabilities float64 [N, K], labels int [N]) of all examples of a part.

    Probabilities are averaged over views. The row of an example that could not be read is zero, and its label -1.

    Args:
      predict_step: from `eval_steps.make_predict_step`. resident: the part's images on the devices, or None for a
        stream.
      protocol, scales: see `protocols`. batch_size: views in a batch; with several views of an example, a batch has
        fewer examples.
    """
    total: np.ndarray | None = None
    labels = np.full(len(part), -1)

    def add(batch: Tree, shares: jax.Array) -> np.ndarray:
        here = batch["mask"] > 0
        index, fetched = batch["index"][here], np.asarray(shares, np.float64)[here]
        labels[index] = batch["label"][here]
        new = np.zeros((len(part), fetched.shape[1])) if total is None else total
        new[index] += fetched  # no index comes twice in a batch
        return new

    if resident is None:
        batches = views.batches(part, protocol, scales, batch_size, jax.device_count())
    else:
        known = part.resident
        assert known is not None
        batches = (batch | {"label": known["label"][batch["index"]]} for batch in part.test_batches(batch_size))
    pending: list[tuple[Tree, jax.Array]] = []
    for batch in batches:
        if resident is None:
            images = put({"image": batch["image"]})["image"]
        else:
            images = gather(put({"index": batch["index"]}), resident)["image"][:, None]
        pending.append((batch, predict_step(params, others, images)))
        if len(pending) > 2:  # so that the host prepares views while the devices compute
            total = add(*pending.pop(0))
    for one in pending:
        total = add(*one)
    if total is None:
        raise UserError(NOTHING)
    return total / len(scales), labels


def features(
    features_step: Callable, params: Tree, part: Split, resident: Any, *, batch_size: int, put: Put
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (features float32 [N, ...], labels int32 [N]) of all examples of a part, preprocessed as in evaluation.

    Args:
      features_step: from `eval_steps.make_features_step`. params: parameters and BatchNorm statistics.
    """
    found, labels = [], []
    for batch in part.test_batches(batch_size):
        here = batch["mask"] > 0
        known = part.resident
        labels.append((batch["label"] if known is None else known["label"][batch["index"]])[here])
        found.append(np.asarray(features_step(params, put(batch), resident))[here])
    return np.concatenate(found), np.concatenate(labels)


def measure(probabilities: np.ndarray, labels: np.ndarray, part: Split, *, confusion: bool = False) -> dict:
    """Returns the metrics, as `evaluate` does, of the class probabilities and labels that `predict` returns."""
    read = labels >= 0
    shares, labels = probabilities[read], labels[read]
    classes = np.arange(shares.shape[1])
    ranks = np.concatenate(
        [
            eval_steps.label_ranks(jnp.asarray(shares[i : i + 4096]), jnp.asarray(labels[i : i + 4096]))
            for i in range(0, len(labels), 4096)
        ]
    )
    truth = labels[:, None] == classes
    total = dict(
        loss=-np.log(np.maximum(shares[truth], np.finfo(np.float32).tiny)).sum(),
        top1=np.sum(ranks < 1),
        top5=np.sum(ranks < 5),
        examples=len(labels),
        class_correct=truth[ranks < 1].sum(0),
        class_examples=truth.sum(0),
    )
    if confusion:
        number = ranks < eval_steps.NO_RANK
        total["confusion"] = np.zeros((len(classes), len(classes)))
        np.add.at(total["confusion"], (labels[number], shares[number].argmax(1)), 1)
    return _metrics(total, part)


def _metrics(total: Tree, part: Split) -> dict:
    """Returns the metrics from sums over a part; see `eval_steps.make_eval_step`."""
    examples = total["examples"]
    check(examples > 0, NOTHING)
    with np.errstate(invalid="ignore"):
        class_accuracy = total["class_correct"] / total["class_examples"]
    metrics = dict(
        loss=float(total["loss"] / examples),
        error=float(1 - total["top1"] / examples),
        top5_error=float(1 - total["top5"] / examples),
        examples=int(examples),
        largest_class=float(total["class_examples"].max() / examples),
        class_accuracy=class_accuracy,
        balanced_accuracy=float(np.nanmean(class_accuracy)),
    )
    if part.config.on_error == "skip":
        metrics["skipped"] = len(part) - metrics["examples"]
    if "confusion" in total:
        metrics["confusion"] = total["confusion"].astype(int)
    return metrics


def is_near_chance(metrics: dict) -> bool:
    """Returns whether a network is hardly better than always predicting the largest class.

    The limit is twice the share of that class, but at most a tenth of the way from that share to 1: an accuracy of 19%
    for ten equal classes, 55% for two, 0.2% for a thousand.
    """
    share = metrics["largest_class"]
    return 1 - metrics["error"] <= share + min(share, (1 - share) / 10)


def has_learned_little(metrics: dict) -> bool:
    """Returns whether a network comes less than 40% of the way from naming the largest class to no error."""
    return metrics["error"] > 0.6 * (1 - metrics["largest_class"])


@jax.jit
def gather(batch: Tree, resident: Tree) -> Tree:
    """`eval_steps.gather`, compiled by itself."""
    return eval_steps.gather(batch, resident)


def _add(total: Tree, sums: list[Tree]) -> Tree:
    fetched = collectives.fetch(sums)
    added = jax.tree.map(lambda *values: np.sum(np.asarray(values, np.float64), axis=0), *fetched)
    return added if total is None else jax.tree.map(np.add, total, added)


def recompute_statistics(
    statistics_step: Callable,
    params: Tree,
    others: Tree,
    part: Split,
    resident: Any,
    batch_size: int,
    batches: int,
    put: Put,
) -> Tree:
    """Returns BatchNorm statistics averaged with equal weights over the first training batches.

    The augmentations of the training step are left out; the random crops of a streamed data set are not.

    This is what the ResNet authors did after training, instead of the running averages
    (github.com/KaimingHe/deep-residual-networks, "Disclaimer and known issues").
    """
    mean = None
    for count, batch in enumerate(part.train_batches(0, batches, batch_size), start=1):
        new = statistics_step(params, others, put(batch), resident)
        mean = new if mean is None else jax.tree.map(lambda old, x, n=count: old + (x - old) / n, mean, new)
    return mean
