"""Fields of configurations and of networks: a default, what it means, and what values it may have.

A configuration has tables of `Field`. A family of networks is a dataclass whose fields are `option(...)`; `options`
returns them as a table.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
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
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


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
    it decides what is recorded and how fast, not what is computed. type: of the value; None: not checked.
    """

    default: Any
    help: str
    rule: Rule | None = None
    resume: bool = False
    type: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words to choose from; () if it is not a choice."""
        return self.rule.options if isinstance(self.rule, Choice) else ()


def check_fields(fields: Iterable[tuple[str, Field]], get: Callable[[str], Any], *, prefix: str = "config.") -> None:
    """Raises UserError for the first value that breaks the rule of its field, or is not of its type.

    Args:
      fields: (name, field). get: returns the value of a name. prefix: of the names in messages.
    """
    for name, field in fields:
        value = get(name)
        if field.rule is not None:
            try:
                field.rule.check(prefix + name, value)
            except TypeError:
                raise UserError(f"{prefix}{name} is {value!r}, but must be {field.rule.text}") from None
        if not _has_type(value, field.type):
            raise UserError(f"{prefix}{name} is {value!r}, but must be {TYPES[field.type]}")


# ---------------------------------------------------------------- dataclasses of options

TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple[int, ...]: "a tuple of whole numbers",
}
_OPTION = "option"  # the key of a `Field` in the metadata of a dataclass's field


def _has_type(value: Any, kind: Any) -> bool:
    """Returns whether a value is of a type of `TYPES`; of any other type, every value is."""
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_has_type(entry, int) for entry in value)
    if isinstance(value, bool):
        return kind not in (int, float, str)
    return isinstance(value, {bool: bool, int: Integral, float: Real, str: str}.get(kind, object))


def option(default: Any, help: str, rule: Rule | None = None) -> Any:
    """Declares a field of a dataclass with its meaning and rule; see `options`."""
    return dataclasses.field(default=default, metadata={_OPTION: Field(default, help, rule)})


def fixed(value: Any) -> Any:
    """Declares a field of a dataclass that its base class leaves open and this class does not: no option."""
    return dataclasses.field(default=value, init=False)


@functools.cache
def options(owner: type) -> Mapping[str, Field]:
    """Returns the options of a dataclass by name.

    A class that gives a field of its base class another default, as `width: float = 0.5`, inherits meaning and rule.
    """
    types = typing.get_type_hints(owner)
    found = {}
    for field in dataclasses.fields(owner):
        if field.init:
            declared = (cls.__dict__.get("__dataclass_fields__", {}).get(field.name) for cls in owner.__mro__)
            meaning = next(other.metadata[_OPTION] for other in declared if other and _OPTION in other.metadata)
            found[field.name] = dataclasses.replace(meaning, default=field.default, type=types[field.name])
    return MappingProxyType(found)
