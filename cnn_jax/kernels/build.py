"""Builds the kernels with the machine's C++ compiler when they are first used, and keeps the library.

The library's name is a hash of its source, the compiler, its flags, the processor and jaxlib, so that a change of any
of these builds a new library. CXX names a compiler; CNN_JAX_KERNELS=0 in the environment turns the kernels off.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import jax

from cnn_jax.core import compilation_cache

SOURCE = Path(__file__).with_name("kernels.cc")
COMPILERS = ("c++", "g++", "clang++")
# Without -ffast-math: it would assume that no number is NaN, and flush denormal numbers in the whole process.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
SECONDS = 300  # after which the compiler is stopped
HANDLERS = ("Convolve", "MaxPool", "MaxPoolByX")
DIGEST = hashlib.sha256().digest_size

_lock = threading.Lock()


class BuildError(Exception):
    """There is no library; the message says why and how to get one."""


def target() -> str | None:
    """Returns the hash that the names of the handlers end in, or None where there are no kernels.

    The first call of a process loads the library, which the first call on a machine builds. Where that fails, one line
    on standard error says why.
    """
    return None if os.environ.get("CNN_JAX_KERNELS") == "0" else _loaded()


def _loaded() -> str | None:
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> str | None:
    try:
        command = compiler()
        key = key_of(command)
        register(load(command, folder() / f"kernels-{key}.so"), key)
        return key
    except BuildError as error:
        print(f"warning: convolutions run as XLA's own operations, which are slower on a CPU: {error}", file=sys.stderr)
        return None


# ---------------------------------------------------------------- the compiler


def compiler() -> list[str]:
    """Returns the command that compiles, without files; raises BuildError if there is no compiler."""
    named = os.environ.get("CXX")
    names = [named] if named else COMPILERS
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing = f"CXX is {named!r}, which is not a program" if named else "there is no C++ compiler"
        raise BuildError(f"{missing}. To get one: apt-get install g++")
    arm = platform.machine() in ("arm64", "aarch64")
    return [found, *FLAGS, "-mcpu=native" if arm else "-march=native", f"-isystem{jax.ffi.include_dir()}"]


def key_of(command: list[str]) -> str:
    """Returns the hash of everything that the library depends on."""
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not run: {error}. To get a compiler: apt-get install g++") from None
    jaxlib = importlib.metadata.version("jaxlib")
    parts = (SOURCE.read_text(encoding="utf-8"), version.stdout, *command, compilation_cache.folder().name, jaxlib)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- the library


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


def load(command: list[str], path: Path) -> ctypes.CDLL:
    """Returns the library at `path`, which is built if it is missing or damaged; raises BuildError if that fails."""
    try:
        with filelock.FileLock(path.with_suffix(".lock")):  # only one of several processes builds
            if not is_whole(path):
                build(command, path)
            return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} cannot be used: {error}") from None


def is_whole(path: Path) -> bool:
    """Returns whether a library is there and ends in its own hash: loading a damaged one may end the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return len(content) > DIGEST and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def build(command: list[str], path: Path) -> None:
    """Compiles the library and replaces `path` by it; raises BuildError with the compiler's first error."""
    name = Path(command[0]).name
    print(f"building the CPU kernels with {name}, once on this machine: up to 30 s", file=sys.stderr, flush=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    started = time.perf_counter()
    try:
        line = [*command, str(SOURCE), "-o", str(partial)]
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


def register(library: ctypes.CDLL, key: str) -> None:
    """Makes the handlers known to XLA, as `name_of(handler, key)`."""
    for handler in HANDLERS:
        jax.ffi.register_ffi_target(name_of(handler, key), jax.ffi.pycapsule(getattr(library, handler)), platform="cpu")


def name_of(handler: str, key: str) -> str:
    """Returns the name of a handler in XLA's programs; it is another one for each library."""
    return f"cnn_jax_{handler}_{key}"
