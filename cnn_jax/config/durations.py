"""Durations: "14 epochs", "64000 steps" or "1000000 examples"."""

import math
import re
from typing import Any

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.core.rules import Rule

LEAST = 1e-9  # of a duration: what divides by it stays finite
UNITS = ("steps", "epochs", "examples")


def parse_duration(duration: str, *, field: str = "duration") -> tuple[float, str]:
    """Returns (number, unit) of a string such as "14 epochs" or "64000steps".

    Raises:
      UserError: not a number >= 0 and one of `UNITS`. `field` names the value in the message.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*([a-z]+)\s*", str(duration))
    unit = found.group(2) if found else ""
    unit += "s" if unit + "s" in UNITS else ""
    if not found or unit not in UNITS:
        raise UserError(
            f"{field} is {duration!r}, but must be a number and a unit ({', '.join(UNITS)}), "
            f"such as '14 epochs'{near(unit, UNITS)}"
        )
    number = float(found.group(1))
    check(math.isfinite(number), f"{field} is {duration!r}, which is not a finite number")
    check(number == 0 or number >= LEAST, f"{field} is {duration!r}, but must be 0 or at least {LEAST:g}")
    return number, unit


def in_steps(duration: str, *, batch_size: int, num_examples: int) -> float:
    """Returns a duration in steps of `batch_size` examples, with its fraction; an epoch has `num_examples`."""
    number, unit = parse_duration(duration)
    return {"steps": number, "epochs": number * num_examples / batch_size, "examples": number / batch_size}[unit]


def to_steps(duration: str, *, batch_size: int, num_examples: int) -> int:
    """Returns a duration in whole steps; see `whole`."""
    return whole(in_steps(duration, batch_size=batch_size, num_examples=num_examples))


def whole(steps: float) -> int:
    """Returns a number of steps, to the nearest; one above zero is at least one step."""
    return max(1, round(steps)) if steps > 0 else 0


def is_due(step: int, period: float) -> bool:
    """Returns whether `step` is the nearest to a multiple of `period` (in steps, with its fraction)."""
    return int((step + 0.5) / period) > int((step - 0.5) / period)


def times_due(start: int, stop: int, period: float) -> int:
    """Returns how many of the steps start + 1 .. stop are due; see `is_due`."""
    return min(stop - start, int((stop + 0.5) / period) - int((start + 0.5) / period))


class Duration(Rule):
    """A number and a unit, or a tuple of them."""

    def __init__(self, *, above_zero: bool = False, each: bool = False):
        super().__init__("a duration such as '14 epochs'", lambda value: True)
        self.above_zero, self.each = above_zero, each

    def check(self, name: str, value: Any) -> None:
        for duration in value if self.each else [value]:
            number, _ = parse_duration(duration, field=name)
            check(number > 0 or not self.above_zero, f"{name} is {duration!r}, but must be above 0")
