"""Files: read as foreign ones, written whole or not at all, on the disk when a function returns; folders and locks."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from cnn_jax.core.errors import StorageError, UserError, check, check_folder

# Errors of a disk or its owner; other errors of files are defects of the program.
NAMES = (
    *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT"),
    *("EISDIR", "ENAMETOOLONG", "ELOOP"),
)
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
        code = re.search(r"\[os_error_code='(\d+)'\]", str(error))  # of tensorstore, which writes for orbax
        if code is None:
            raise
        raise StorageError(f"{what}: {os.strerror(int(code.group(1)))}") from None


# ---------------------------------------------------------------- reading


def expanded(path: str | Path) -> Path:
    """Returns a path that a user typed, with ~ and ~NAME as the folder of that user."""
    return Path(os.path.expanduser(path))


def cache_folder() -> Path:
    """Returns $XDG_CACHE_HOME/cnn_jax, by default ~/.cache/cnn_jax."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cnn_jax"


def kind(mode: int) -> str:
    """Returns what a special file is (a folder, a pipe, a device), by its `st_mode`."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def without_waiting(file: str, flags: int) -> int:
    """Opens a file for `open(opener=...)`: to open a pipe that nobody writes to would wait for ever."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """Returns the text of a file.

    Raises:
      UserError: there is none, it is a folder, a pipe or a device, it cannot be read, or it is not UTF-8.
    """
    try:
        with open(path, "rb", opener=without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            check(stat.S_ISREG(mode), f"{path} cannot be read: it is {kind(mode)}, but must be a file")
            return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds; raises UserError as `read_text` does, or if it is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path} is damaged: its JSON is nested too deep") from None
    except json.JSONDecodeError as error:
        reason = f"it is not JSON (line {error.lineno}: {error.msg})" if text.strip() else "it is empty"
        raise UserError(f"{path} is damaged: {reason}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise UserError(f"{path} is damaged: {error}") from None


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields (folder, names of its folders, names of its files) of `root` and of all below it, sorted.

    Links are followed, each folder comes once, and a link to a folder above is left out, so that loops end. Folders
    whose names begin with a dot are left out, and so is what a caller removes from the list of folders.

    Raises:
      UserError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    above = Path(os.path.realpath(root))
    seen = {inode(path) for path in (above, *above.parents)}
    for place, folders, names in os.walk(root, onerror=fail, followlinks=True):
        kept = []
        for name in sorted(folders):
            found = None if name.startswith(".") else inode(Path(place) / name)
            if found is not None and found not in seen:
                seen.add(found)
                kept.append(name)
        folders[:] = kept
        yield Path(place), folders, sorted(names)


# ---------------------------------------------------------------- writing


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, as `written` does; names of files that are not UTF-8 keep their bytes.

    Raises:
      OSError: it cannot be written.
    """
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which then replaces `path`, or is removed if writing failed.

    Readers see the old content or the new one, also after a power cut. A link stays, and its file is replaced; a device
    or a pipe stays and is written to.

    Raises:
      StorageError: it cannot be written.
    """
    with storage_errors(f"{path} cannot be written"), _replacing(path) as partial:
        yield partial


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    if _is_written_through(path):
        with tempfile.TemporaryDirectory(prefix="cnn_jax-") as scratch:
            partial = Path(scratch) / "content"
            yield partial
            with partial.open("rb") as source, path.open("ab") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # of a process that was killed; or a link to elsewhere
    try:
        yield partial
        if path.exists():
            shutil.copymode(path, partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_output(path: Path, flag: str) -> None:
    """Checks, before anything is computed, that a file can be written at the `path` that `flag` names.

    Raises:
      UserError: it is a folder, or its folder is not there.
      StorageError: the system refuses a file there.
    """
    try:
        check(not path.is_dir(), f"{flag}: {str(path)!r} is a folder: name a file")
        check(path.parent.is_dir(), f"{flag}: there is no folder {str(path.parent)!r}")
        if _is_written_through(path):
            if not os.access(path, os.W_OK):
                raise StorageError(f"{flag}: {str(path)!r} cannot be written")
            return
        target = Path(os.path.realpath(path))
        trial = target.with_name(target.name + ".partial")  # as `written` has it
        trial.unlink(missing_ok=True)
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise StorageError(f"{flag}: {str(path)!r} cannot be written: {error.strerror}") from None


def check_output_folder(path: Path, flag: str) -> None:
    """Checks, before anything is computed, that a folder can be made, or written to, at the `path` that `flag` names.

    Raises:
      UserError: it is a file.
      StorageError: the system refuses a folder there, or a file in it.
    """
    try:
        check(path.is_dir() or not path.exists(), f"{flag}: {path} is a file: name a folder")
        missing = next((each for each in (*reversed(path.absolute().parents), path) if not each.exists()), None)
        if missing is not None:
            missing.mkdir()
            missing.rmdir()
        elif not os.access(path, os.W_OK):
            raise StorageError(f"{flag}: {path} cannot be written")
    except OSError as error:
        raise StorageError(f"{flag}: {path} cannot be made: {error.strerror}") from None


def _is_written_through(path: Path) -> bool:
    """Returns whether a path is that of a device or a pipe, or names an open file, as /dev/stdout does."""
    if path.absolute().parts[1:2] in (("dev",), ("proc",)):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inode(folder: Path) -> tuple[int, int] | None:
    """Returns what tells a folder from every other one, or None if it is not there: its device and number."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_folder(folder: Path, *, name: str = "") -> None:
    """Creates a folder and its parents where they are missing; their names are on the disk when it returns.

    Raises:
      StorageError: it cannot be made, for any reason that the system gives. `name` is what messages call it.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{name or folder} cannot be made: {error.strerror}") from None


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
    make_folder(workdir, name=f"{flag}={workdir}")
    holder = workdir / ".lock"
    check(holder.is_file() or not os.path.lexists(holder), f"{holder} must be a file, but is not: remove it")
    with storage_errors(f"{flag}={workdir} cannot be written"):
        try:
            lock = filelock.FileLock(holder).acquire(blocking=False)
        except filelock.Timeout:
            by = holder.read_text(encoding="utf-8", errors="replace").strip() or "another process"
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
