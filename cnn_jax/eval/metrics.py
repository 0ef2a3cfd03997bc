"""Metrics of a classifier: pure functions of labels int [N] and class probabilities [N, K], in NumPy.

Every example has a label from 0 to K-1; K is the number of classes. All shares are in [0, 1].

Each raises UserError for other shapes, labels out of range, and probabilities that are not finite.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnn_jax.core.errors import check

BLOCK = 4096  # examples that are ranked in one go
SMALLEST = float(np.finfo(np.float32).tiny)  # in a logarithm, smaller probabilities count as this one
SHARPEST, FLATTEST = 1e-2, 1e2  # the range of temperatures


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, shares = np.asarray(labels), np.asarray(probabilities, np.float64)
    check(
        shares.ndim == 2 and labels.shape == shares.shape[:1] and len(labels) > 0,
        f"labels have the shape {list(labels.shape)} and probabilities {list(shares.shape)}, but must have [N] and "
        "[N, K], with one example at least",
    )
    check(bool(np.isfinite(shares).all()), "there are probabilities that are not finite: the network's scores overflow")
    classes = shares.shape[1]
    check(
        bool(((labels >= 0) & (labels < classes)).all()),
        f"labels go from {labels.min()} to {labels.max()}, but {classes} classes have the numbers 0 to {classes - 1}",
    )
    return labels.astype(np.int64), shares


# ---------------------------------------------------------------- accuracy


def ranks(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the rank of each example's label, int [N]: 0 is a top-1 hit, below k a top-k hit.

    Of classes with equal probabilities, the one with the lower number ranks first, as in `argmax`.
    """
    labels, shares = _checked(labels, probabilities)
    found = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), BLOCK):
        block, label = shares[start : start + BLOCK], labels[start : start + BLOCK, None]
        own = np.take_along_axis(block, label, axis=1)
        earlier = np.arange(block.shape[1]) < label
        found[start : start + BLOCK] = ((block > own) | ((block == own) & earlier)).sum(1)
    return found


def accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int = 1) -> float:
    """Returns the top-k accuracy: the share of examples whose label is among the k most probable classes.

    Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", section 4.1; it is 1 - the error.
    """
    return float(np.mean(ranks(labels, probabilities) < k))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the mean cross-entropy -log p(label), nats."""
    labels, shares = _checked(labels, probabilities)
    return float(-np.log(np.maximum(shares[np.arange(len(labels)), labels], SMALLEST)).mean())


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns how many examples of class i (rows) are predicted as class j (columns), int [K, K]."""
    labels, shares = _checked(labels, probabilities)
    classes = shares.shape[1]
    return np.bincount(labels * classes + shares.argmax(1), minlength=classes**2).reshape(classes, classes)


# ---------------------------------------------------------------- classes


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of each class, arrays [K].

    With TP, FP and FN of a class, the counts of true positives, false positives and false negatives (van Rijsbergen
    1979, "Information Retrieval", chapter 7):

    examples: TP + FN. predicted: TP + FP.
    precision: TP / (TP + FP), NaN for a class that is never predicted.
    recall: TP / (TP + FN), NaN for a class without examples.
    f1: 2 TP / (2 TP + FP + FN), the harmonic mean of the two; NaN for a class without examples.
    """

    examples: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def macro(self) -> dict[str, float]:
        """The plain means over the classes that have examples: {"precision", "recall", "f1"}.

        The precision of a class that is never predicted counts as 0, as in scikit-learn. f1 is the mean of the classes'
        F1 (Opitz and Burst 2019, "Macro F1 and Macro F1").
        """
        here = self.examples > 0
        return {
            name: float(np.nan_to_num(getattr(self, name)[here], nan=0.0).mean())
            for name in ("precision", "recall", "f1")
        }

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have examples (Brodersen et al. 2010)."""
        return self.macro["recall"]


def class_metrics(confusion: np.ndarray) -> ClassMetrics:
    """Returns the metrics of each class from what `confusion_matrix` returned."""
    hits, examples, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(examples > 0, 2 * hits / (examples + predicted), np.nan)
        return ClassMetrics(examples, predicted, hits / predicted, hits / examples, f1)


class Confused(NamedTuple):
    """count: examples of class `true` that are predicted as class `predicted`. share: count / examples of `true`."""

    true: int
    predicted: int
    count: int
    share: float


def most_confused(confusion: np.ndarray, most: int = 20) -> list[Confused]:
    """Returns the largest off-diagonal entries, largest first; of equal counts, the larger share comes first."""
    off = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    examples = confusion.sum(1)
    true, predicted = np.nonzero(off)
    found = [
        Confused(int(i), int(j), int(off[i, j]), float(off[i, j] / examples[i]))
        for i, j in zip(true, predicted, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.count, -one.share, one.true, one.predicted))[:most]


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Reliability:
    """Examples in bins of equal width of their confidence, the probability of the predicted class; arrays [bins].

    Bin b has the confidences in (b / bins, (b + 1) / bins]. confidence, accuracy: means, NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error, sum over bins of n_b / N * |accuracy_b - confidence_b|.

        Naeini et al. 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
        """
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Reliability:
    """Returns the bins of a reliability diagram (Guo et al. 2017, section 2, where `bins` is 15)."""
    labels, shares = _checked(labels, probabilities)
    check(bins > 0, f"bins is {bins}, but must be positive")
    confidence, hits = shares.max(1), shares.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts,
            np.bincount(place, confidence, bins) / counts,
            np.bincount(place, hits, bins) / counts,
        )


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(log p / T), [N, K]: what softmax(z / T) is for scores z with softmax(z) = p.

    Guo et al. 2017, section 4.2. The ranking of the classes does not change. Probabilities that were averaged over
    views or networks are treated as if one softmax had made them.
    """
    scores = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST)) / temperature
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the temperature T for which the log loss of `with_temperature` is lowest (Guo et al. 2017, section 4.2).

    Fit it on examples other than the test examples. T is limited to 0.01 to 100: if all predictions are right, the loss
    is lowest at T = 0.

    The loss is convex in b = 1 / T: its slope, mean(E_q[log p] - log p(label)) with q = softmax(b log p), has one root.
    """
    from scipy.optimize import brentq

    labels, shares = _checked(labels, probabilities)
    logs = np.log(np.maximum(shares, SMALLEST))
    own = logs[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        return float((with_temperature(shares, 1 / inverse) * logs).sum(1).mean() - own)

    low, high = 1 / FLATTEST, 1 / SHARPEST
    if slope(high) <= 0:
        return SHARPEST
    if slope(low) >= 0:
        return FLATTEST
    return 1 / float(brentq(slope, low, high, xtol=1e-10))  # pyright: ignore[reportArgumentType]
