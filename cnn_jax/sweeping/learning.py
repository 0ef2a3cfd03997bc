"""Whether an arm was trained until it was done learning: before that, no report calls it better or worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.sweeping.arm_results import ArmResult

LAST = 0.2  # the last share of training, over which the training error must have leveled off
REST = 1.0  # points that it may still fall there
LITTLE = 0.5  # of the error of guessing: above this an arm is not trained, even if its curve has leveled off
POINTS = 3  # points of the curve that the last fifth must have


@dataclass(frozen=True)
class Learning:
    """Where the training of an arm ended: means over its seeds.

    error: training error at the end, %, as the curves have it (dropout and augmentation included).
    fall: points by which it fell over the last fifth of training, by the line through that part of the curve.
    epochs: of the whole training. chance: the error of guessing, %.
    """

    error: float
    fall: float
    epochs: float
    chance: float

    @property
    def learned_little(self) -> bool:
        """Whether it is still nearer to guessing than to no error: with a low learning rate, any curve is flat."""
        return self.error > LITTLE * self.chance

    @property
    def is_done(self) -> bool:
        return not self.learned_little and self.fall <= REST

    def told(self, other: "Learning | None" = None) -> str:
        """Returns why it is not done learning, and how much more it needs to reach the training error of `other`."""
        if self.learned_little:
            error = f"its training error is {self.error:.1f}%, that of guessing {self.chance:.1f}%"
            return f"it learned little in {self.epochs:.3g} epochs: {error}"
        text = (
            f"its training error still fell by {self.fall:.1f} points over the last fifth of {self.epochs:.3g} epochs"
        )
        distance = self.error - other.error if other else 0.0
        if distance <= 0:
            return text
        more = distance / self.fall * LAST * self.epochs
        away = f"{more:.1f}" if more < 10 else f"{more:.0f}"
        return f"{text}; at that rate the other's is {away} epochs away, and learning slows"


def judge(result: ArmResult) -> Learning | None:
    """Returns where the training of an arm ended, or None where no curve of it has enough points to tell."""
    found = [ending(records) for records in result.curves.values()]
    known = [one for one in found if one is not None]
    if not known:
        return None
    error, fall, epochs = np.mean(known, axis=0)
    classes = max((run.config.get("data.num_classes") or 0 for run in result.runs.values()), default=0)
    return Learning(float(error), float(fall), float(epochs), 100 * (1 - 1 / classes) if classes else 100.0)


def ending(records: Sequence[dict[str, Any]]) -> tuple[float, float, float] | None:
    """Returns (error at the end, fall over the last fifth, epochs) of one curve, %, or None: it has too few points.

    Both are those of the straight line through the training errors of the last fifth (least squares): single records
    are of few examples.
    """
    curve = [record for record in records if record["kind"] == "train"]
    end = max((record["epoch"] for record in curve), default=0.0)
    last = [record for record in curve if record["epoch"] >= (1 - LAST) * end - 1e-6]
    if len(last) < POINTS:
        return None
    slope, level = np.polyfit([r["epoch"] - end for r in last], [100 * r["error"] for r in last], 1)
    return float(level), float(-slope * LAST * end), end
