"""Distances between features, and how well they tell people (or things) apart.

Verification asks whether two pictures show the same person: they do if their distance is at most a threshold.
Identification asks which of K known persons a picture shows: the one with the nearest picture, or none of them if even
that one is beyond the threshold. The measures are those of ISO/IEC 19795-1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import auc, roc_curve

DISTANCES = ("cosine", "euclidean")


def distances(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """Returns the distance of each row of `a` [N, F] to each of `b` [M, F], float64 [N, M].

    "cosine": 1 minus the cosine of the angle between them, in [0, 2]; a row of zeros is at 1 from everything.
    "euclidean": the length of their difference.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if kind == "euclidean":
        return cdist(a, b)
    units = []
    for rows in (a, b):
        rows = rows / np.maximum(
            np.abs(rows).max(axis=1, keepdims=True), np.finfo(float).tiny
        )  # squares must not overflow
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        units.append(rows / np.where(lengths > 0, lengths, 1))
    return np.clip(1 - units[0] @ units[1].T, 0, 2)


def pairs(between: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (distance, whether both show the same person) of each pair of different pictures, once.

    Args:
      between: distances of N pictures, [N, N]. labels: the person on each, [N].
    """
    first, second = np.triu_indices(len(labels), 1)
    labels = np.asarray(labels)
    return between[first, second], labels[first] == labels[second]


@dataclass(frozen=True)
class Roc:
    """What each threshold would do; arrays [T], from the strictest to the one that accepts everything.

    thresholds: -inf, then every distance that occurs. A pair is accepted if its distance is at most the threshold.
    false_accepts: the share of pairs of different persons that are accepted. false_rejects: of pairs of the same person
    that are not.
    """

    thresholds: np.ndarray
    false_accepts: np.ndarray
    false_rejects: np.ndarray

    @property
    def auc(self) -> float:
        """The area under the curve of true over false accepts: the probability that a pair of the same person is nearer
        than one of different persons, ties counted half."""
        return float(auc(self.false_accepts, 1 - self.false_rejects))

    @property
    def eer(self) -> float:
        """The equal error rate: where false accepts are as frequent as false rejects, on straight lines between
        thresholds."""
        return float(np.interp(0, self.false_accepts - self.false_rejects, self.false_accepts))

    @property
    def equal(self) -> int:
        """The index of the threshold with the smallest difference of the two rates, the strictest of equal ones."""
        return int(np.argmin(np.abs(self.false_accepts - self.false_rejects)))


def roc(between: np.ndarray, same: np.ndarray) -> Roc:
    """Returns the rates of error of pairs at every threshold; pairs of equal distance are accepted together.

    Args:
      between: distances [P]. same: whether a pair is of one person, [P]; there must be pairs of both kinds.
    """
    false, true, scores = roc_curve(same, -between, drop_intermediate=False)
    return Roc(-scores, false, 1 - true)


def to_persons(between: np.ndarray, gallery: np.ndarray, persons: int) -> np.ndarray:
    """Returns the distance of each query to the nearest picture of each person, [Q, K].

    Args:
      between: distances of queries to the pictures of the gallery, [Q, G]. gallery: the person on each of these, int
        [G] in [0, persons), each at least once.
    """
    nearest = np.full((persons, len(between)), np.inf)
    np.minimum.at(nearest, gallery, between.T)
    return nearest.T


def ranks(nearest: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the rank of the right person of each query, int [Q] from 1; among equally near persons, the right one
    counts as last.

    Args:
      nearest: distances to persons, [Q, K]. labels: the right person of each query, int [Q].
    """
    right = np.take_along_axis(nearest, np.asarray(labels)[:, None], axis=1)
    return np.sum(nearest <= right, axis=1)


def cmc(found: np.ndarray, persons: int) -> np.ndarray:
    """Returns the cumulative match characteristic: for k = 1, ..., K the share of ranks `found` of at most k, [K]."""
    return np.cumsum(np.bincount(found, minlength=persons + 1)[1:]) / len(found)


def jackknife(statistic: Callable[[np.ndarray], float], groups: np.ndarray) -> float:
    """Returns the standard error of a statistic over groups by the jackknife (Efron 1982, chapter 3).

    Pairs of pictures of one person are not independent observations, so the groups are the persons.

    Args:
      statistic: indices of the examples without one group, int [n] -> number. groups: the group of each example, [N].
    """
    groups = np.asarray(groups)
    values = np.array([statistic(np.flatnonzero(groups != group)) for group in np.unique(groups)])
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.sum((values - values.mean()) ** 2)))
