"""What ends a run with one message instead of a traceback, each kind with an exit code of its own.

Exit codes: 0 done; 1 a defect of the program, with a traceback; 2 a user's mistake; 3 the loss or a gradient is not
finite; 74 storage failed; 75 stopped by a signal after saving: run the same command again. A signal before anything can
be saved, or a second one, ends the process with 128 + its number. Where another process of the run is lost, jax's
runtime aborts with 134.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message names the value, the rule that it breaks and the way out."""

    exit_code = 2


class NotFiniteError(UserError):
    """The loss or a gradient became infinite or NaN."""

    exit_code = 3


class NotPreparedError(UserError):
    """A data set is not on this machine."""


class StorageError(UserError):
    """A disk is full, a folder cannot be written, a bucket does not answer, no checkpoint is whole."""

    exit_code = 74  # EX_IOERR


class FolderGoneError(StorageError):
    """The folder of a run was moved or removed while it was training."""

    def __init__(self, folder: object):
        super().__init__(
            f"{folder} was moved or removed while the run was training: what it has saved is where it was moved to. To "
            "resume, run the same command with --workdir=NEW-PLACE"
        )


class Stopped(UserError):
    """A signal stopped the run, and everything is saved."""

    exit_code = 75  # EX_TEMPFAIL: try again


def near(value: str, options: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the option closest to `value`, or an empty string."""
    match = difflib.get_close_matches(str(value), list(options), n=1, cutoff=0.5)
    looks_alike = match and unicodedata.normalize("NFC", match[0]) == unicodedata.normalize("NFC", str(value))
    if looks_alike and match[0] != str(value):
        return f"; did you mean {match[0]!a}, the same letters in another Unicode normal form?"
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


def check_folder(field: str, value: str) -> None:
    """Raises UserError if `value` is a URL, such as that of a bucket, and no path."""
    check(
        re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value) is None,
        f"{field} is {value!r}, but must be a folder: its URL is not read. Copy what is there, or mount it; "
        "launch/README.md says what works where",
    )
