"""Which parameters of a test run with every commit, and which in the slow tier."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick(names: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Returns the parameters: those of `chosen` run with every commit, the others are slow."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]
