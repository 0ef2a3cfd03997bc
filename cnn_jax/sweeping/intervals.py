"""Numbers with their uncertainty: a mean over seeds, and the paired difference of two arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mean:
    """A mean over `count` seeds with the standard deviation of one and the 95% interval of the mean (Student's t).

    With one seed the deviation and the interval are not known: NaN.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int

    @property
    def is_noise(self) -> bool:
        """Whether a difference may be zero: zero is inside the interval, or there is no interval.

        Two seeds that differ by the same number of images have an interval of width zero, which says nothing.
        """
        return not (self.low > 0 or self.high < 0) or (self.count < 3 and self.deviation == 0)


def mean(values: Sequence[float]) -> Mean:
    """Returns the mean of values of different seeds with its 95% interval; raises ValueError for none."""
    from scipy import stats

    if not len(values):
        raise ValueError("the mean of no values")
    array = np.asarray(values, float)
    center = float(array.mean())
    if len(array) == 1:
        return Mean(center, float("nan"), float("nan"), float("nan"), 1)
    deviation = float(array.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(array) - 1)) * deviation / len(array) ** 0.5
    return Mean(center, deviation, center - half, center + half, len(array))


def paired_difference(reference: Mapping[int, float], other: Mapping[int, float]) -> Mean | None:
    """Returns the mean of other - reference over the seeds that both have, or None if they share none."""
    seeds = sorted(reference.keys() & other.keys())
    return mean([other[seed] - reference[seed] for seed in seeds]) if seeds else None
