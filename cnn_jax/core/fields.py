"""Rows of the tables of fields: a default, what it means, and what values it may have."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cnn_jax.core.errors import UserError, check, check_choice


class Rule:
    """What a value must be; `text` completes the sentence "NAME is VALUE, but must be ..."."""

    def __init__(self, text: str, holds: Callable[[Any], bool]):
        self.text, self.holds = text, holds

    def check(self, name: str, value: Any) -> None:
        """Raises UserError, which names the value and the rule, unless the rule holds."""
        check(self.holds(value), f"{name} is {value!r}, but must be {self.text}")


class Each(Rule):
    """A rule for every entry of a tuple."""

    def check(self, name: str, value: Any) -> None:
        for entry in value:
            check(self.holds(entry), f"{name} has {entry!r}, but every entry must be {self.text}")


class Choice(Rule):
    """One of a few words."""

    def __init__(self, *options: str):
        super().__init__(f"one of {', '.join(options)}", lambda value: value in options)
        self.options = options

    def check(self, name: str, value: Any) -> None:
        check_choice(name, value, self.options)


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


POSITIVE = Rule("above 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = Rule("finite and not negative", lambda value: is_number(value) and value >= 0)
SHARE = Rule("in [0, 1)", lambda value: is_number(value) and 0 <= value < 1)
FRACTION = Rule("in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1)
FACTOR = Rule("in (0, 1]", lambda value: is_number(value) and 0 < value <= 1)
NUMBERS = Each("a finite number", is_number)


@dataclass(frozen=True)
class Field:
    """A field of a configuration.

    help: what it means, with its unit. rule: what values it may have. resume: whether it may change when a run resumes:
    it decides what is recorded and how fast, not what is computed.
    """

    default: Any
    help: str
    rule: Rule | None = None
    resume: bool = False


def check_fields(fields: Iterable[tuple[str, Field]], get: Callable[[str], Any], *, prefix: str = "config.") -> None:
    """Raises UserError for the first value that breaks the rule of its field.

    Args:
      fields: (name, field). get: returns the value of a name. prefix: of the names in messages.
    """
    for name, field in fields:
        if field.rule is not None:
            try:
                field.rule.check(prefix + name, get(name))
            except TypeError:
                raise UserError(f"{prefix}{name} is {get(name)!r}, but must be {field.rule.text}") from None
