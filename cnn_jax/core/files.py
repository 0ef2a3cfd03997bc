"""Files that are whole or absent, on the disk when a function returns; folders that one process holds."""

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from cnn_jax.core.errors import StorageError, UserError, check, check_folder

# Errors of a disk or its owner; other errors of files are defects of the program.
NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT")
REFUSALS = {getattr(errno, name) for name in NAMES if hasattr(errno, name)}


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Raises one StorageError, which begins with `what`, where a disk is full or a file cannot be written."""
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


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically: readers see the old text or the new one, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a path to write a large file to, which then replaces `path`, or is removed if writing failed.

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


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents where they are missing; their names are on the disk when it returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Blocks until the names in `folder` are on the disk: what was renamed, made or removed there."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that do not sync folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(workdir: Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Creates `workdir` and locks it for this process; the lock ends with the process, however it ends.

    Args:
      flag: that named it, for messages.

    Raises:
      UserError: another process holds it.
      StorageError: the folder cannot be made or written.
    """
    try:
        make_folder(workdir)
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


def located(flag: str, value: str) -> Path | str:
    """Returns the path that `value` is, or the URL of a folder in a bucket; raises UserError if it is another URL."""
    if re.match(r"(gs|s3)://", value) is None:
        check_folder(flag, value)
        return Path(value).expanduser()
    check(
        re.fullmatch(r"\w+://[^/]+(/+[^/]+)+/*", value) is not None,
        f"{flag} is {value!r}, but must name a folder in a bucket, such as {value[:2]}://bucket/run",
    )
    return value.rstrip("/")
