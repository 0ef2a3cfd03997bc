"""Builds this project's C++ with the machine's compiler when it is first used, and keeps the libraries.

A library's name has a hash of its source, the compiler, its flags and the processor, so that a change of any of these
builds a new one. CXX names a compiler.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cnn_jax.core import compilation_cache

COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300  # after which the compiler is stopped
DIGEST = hashlib.sha256().digest_size


class BuildError(Exception):
    """There is no library; the message says why and how to get one."""


def compiler(flags: tuple[str, ...]) -> list[str]:
    """Returns the command that compiles, without files; raises BuildError if there is no compiler."""
    named = os.environ.get("CXX")
    names = [named] if named else COMPILERS
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing = f"CXX is {named!r}, which is not a program" if named else "there is no C++ compiler"
        raise BuildError(f"{missing}. To get one: apt-get install g++")
    return [found, "-std=c++17", "-shared", "-fPIC", *flags]


def key_of(command: list[str], source: Path, *more: str) -> str:
    """Returns the hash of everything that a library depends on: source, compiler, processor, and `more`."""
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not run: {error}. To get a compiler: apt-get install g++") from None
    parts = (source.read_text(encoding="utf-8"), version.stdout, *command, compilation_cache.folder().name, *more)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def folder() -> Path:
    """Returns the folder of the libraries, which only its owner can read or write; raises BuildError if it is not."""
    path = compilation_cache.folder() / "kernels"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise BuildError(f"{path} belongs to another user; XDG_CACHE_HOME names another place")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise BuildError(f"{path} cannot be used: {error.strerror}; XDG_CACHE_HOME names another place") from None
    return path


def built(command: list[str], source: Path, path: Path, *, begins: Callable[[str], None] = lambda name: None) -> Path:
    """Returns `path`, the library of `source`, which is built if it is missing or damaged.

    Args:
      begins: is called with the name of the compiler before it starts.

    Raises:
      BuildError: the compiler fails, or the file cannot be written.
    """
    import filelock

    try:
        if not is_whole(path):
            with filelock.FileLock(path.with_suffix(".lock")):  # only one of several processes builds
                if not is_whole(path):
                    begins(Path(command[0]).name)
                    _build(command, source, path)
    except OSError as error:
        raise BuildError(f"{path} cannot be used: {error}") from None
    return path


def is_whole(path: Path) -> bool:
    """Returns whether a library is there and ends in its own hash: loading a damaged one may end the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return len(content) > DIGEST and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _build(command: list[str], source: Path, path: Path) -> None:
    """Compiles the library and replaces `path` by it; raises BuildError with the compiler's first error."""
    name = Path(command[0]).name
    partial = path.with_suffix(f".{os.getpid()}.partial")
    started = time.perf_counter()
    try:
        line = [*command, str(source), "-o", str(partial)]
        result = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
        if result.returncode:
            errors = [text for text in result.stderr.splitlines() if "error" in text] or result.stderr.splitlines()
            reason = errors[0] if errors else f"exit code {result.returncode}"
            raise BuildError(f"{name} fails: {reason}. Another compiler may work: apt-get install g++, and CXX=g++")
        content = partial.read_bytes()
        with partial.open("ab") as file:  # after the last section, where no loader looks
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except subprocess.TimeoutExpired:
        taken = time.perf_counter() - started
        raise BuildError(f"{name} is stopped after {taken:.0f} s. Another compiler may work: name it by CXX") from None
    finally:
        partial.unlink(missing_ok=True)


def processor_flag() -> str:
    """Returns the option for all instructions of this machine's processor."""
    return "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
