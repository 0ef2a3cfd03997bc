"""The one exception for a user's mistake; the command line prints it without a traceback and exits with code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message names the value, the rule that it breaks and the way out."""


def near(value: str, options: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the option closest to `value`, or an empty string."""
    match = difflib.get_close_matches(str(value), list(options), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def check_choice(field: str, value: str, options: Iterable[str]) -> None:
    """Raises UserError unless `value` is one of `options`."""
    options = list(options)
    if value not in options:
        raise UserError(f"{field} is {value!r}, but must be one of {', '.join(options)}{near(value, options)}")


def check(condition: bool, message: str) -> None:
    """Raises UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)
