"""Builds the kernels when they are first used, and makes them known to XLA.

CNN_JAX_KERNELS=0 in the environment turns them off; `native` says how they are built.
"""

import ctypes
import functools
import importlib.metadata
import os
import sys
import threading
from pathlib import Path

import jax

from cnn_jax.core import native

SOURCE = Path(__file__).with_name("kernels.cc")
# Without -ffast-math: it would assume that no number is NaN, and flush denormal numbers in the whole process.
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno")
HANDLERS = ("Convolve", "MaxPool", "MaxPoolByX")

_lock = threading.Lock()


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
        command = native.compiler((*FLAGS, native.processor_flag(), f"-isystem{jax.ffi.include_dir()}"))
        key = native.key_of(command, SOURCE, importlib.metadata.version("jaxlib"))
        path = native.built(command, SOURCE, native.folder() / f"kernels-{key}.so", begins=_say)
        register(_opened(path), key)
        return key
    except native.BuildError as error:
        print(f"warning: convolutions run as XLA's own operations, which are slower on a CPU: {error}", file=sys.stderr)
        return None


def _say(compiler: str) -> None:
    print(f"building the CPU kernels with {compiler}, once on this machine: up to 30 s", file=sys.stderr, flush=True)


def _opened(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise native.BuildError(f"{path} cannot be used: {error}") from None


def register(library: ctypes.CDLL, key: str) -> None:
    """Makes the handlers known to XLA, as `name_of(handler, key)`."""
    for handler in HANDLERS:
        jax.ffi.register_ffi_target(name_of(handler, key), jax.ffi.pycapsule(getattr(library, handler)), platform="cpu")


def name_of(handler: str, key: str) -> str:
    """Returns the name of a handler in XLA's programs; it is another one for each library."""
    return f"cnn_jax_{handler}_{key}"
