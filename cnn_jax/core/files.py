"""Writing files so that readers never see a part, and folders that one process holds."""

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from cnn_jax.core.errors import StorageError, UserError

# What the system says when a disk or its owner refuses; other errors of files are defects of the program.
NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT")
REFUSALS = {getattr(errno, name) for name in NAMES if hasattr(errno, name)}


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns what is raised when a disk is full or a file cannot be written into one StorageError that begins so."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"{what}: {error.strerror}{place}") from None
    except ValueError as error:
        reason = re.search(r"([^:]+) \[os_error_code=", str(error))  # of tensorstore, which writes for orbax
        if reason is None:
            raise
        raise StorageError(f"{what}: {reason.group(1).strip()}") from None


@contextlib.contextmanager
def locked(workdir: Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Makes `workdir` and holds it for this process; the lock dies with the process, however it dies.

    Args:
      flag: that named it, for messages.

    Raises:
      UserError: another process holds it.
      StorageError: the folder cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{flag}={workdir} cannot be made: {error.strerror}") from None
    holder = workdir / ".lock"
    with storage_errors(f"{flag}={workdir} cannot be written"):
        try:
            lock = filelock.FileLock(holder).acquire(blocking=False)
        except filelock.Timeout:
            by = holder.read_text(encoding="utf-8").strip() or "another process"
            raise UserError(f"{workdir} is in use by {by}: wait until it ends, or give another {flag}") from None
    with lock:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: readers see the old text or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Gives a path to write a large file to; it is in the place of `path` afterwards, or nowhere if that failed.

    Raises:
      StorageError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with storage_errors(f"{path} cannot be written"):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
