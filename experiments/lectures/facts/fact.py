"""One number of a slide next to ours and an independent one, and how they compare."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Value = Any  # int, float, or a list of rows


@dataclass(frozen=True)
class Fact:
    """One number, or one map.

    lectures: the first three digits of their files, such as "000/004". slide: the number as printed, or a map; None if
    there is none. right: the independent value, by hand or the paper's. ours: computes it from the modules.
    """

    lectures: str
    what: str
    slide: Any
    right: Value
    ours: Callable[[], Value]
    why: str = ""

    def verdict(self, ours: Value) -> str:
        """Returns how the slide compares with a value of ours, or "CONTRADICTION" if that is not the right one."""
        if not same(ours, self.right):
            return "CONTRADICTION"
        if self.slide is None:
            return "not on the slide"
        if not isinstance(self.slide, str):
            return "agrees" if same(self.slide, ours) else "wrong on the slide"
        low, value, high = interval(self.slide)
        number = float(np.ravel(ours)[0])
        if self.slide.startswith(">"):
            return "agrees" if number > value else "wrong on the slide"
        if math.isclose(value, number, rel_tol=1e-9):
            return "agrees"
        if low <= number <= high:
            return "rounded"
        return "cut off" if value < number < value + (high - low) else "wrong on the slide"


def same(one: Value, other: Value) -> bool:
    return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=1e-6, atol=1e-6))


UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 1024, "%": 1, "x": 1}


def interval(text: str) -> tuple[float, float, float]:
    """Returns (lowest, written, highest) of the numbers that are rounded to a text such as "27.55M" or "1.8 G".

    A number without unit and decimals is exact. Zeros before K, M or G may be rounding: half a percent is allowed.
    """
    match = re.fullmatch(r"[~>]?\s*([\d,]+(?:\.(\d+))?)\s*(Ki|[KMG%x]?)", text)
    assert match, text
    unit = UNITS[match[3]]
    value, half = float(match[1].replace(",", "")) * unit, unit * 10.0 ** -len(match[2] or "") / 2
    if not match[2] and not match[3]:
        half = 0.0
    if match[1].endswith("0") and not match[2] and match[3] in ("K", "M", "G"):
        half = max(half, 0.005 * value)
    return value - half, value, value + half
