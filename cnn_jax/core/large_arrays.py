"""The memory of large arrays on Linux: kept from step to step, in huge pages.

XLA takes the temporary memory of every step from the system and gives it back. On a CPU, clearing its pages takes a
fifth of a step. A small library that is loaded before the C library keeps large blocks (`allocator.cc`), and glibc
requests pages of 2 MB for smaller ones. Both need variables of the environment that are set when a process starts.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from cnn_jax.core import native

OURS = ("cnn_jax", "experiments")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SOURCE = Path(__file__).with_name("allocator.cc")


def restart_with() -> None:
    """Restarts a command of this project in the same process, with what its large arrays need.

    Does nothing without glibc 2.35, in a debugger, in another program, and if GLIBC_TUNABLES is set. Huge pages are
    requested where Linux gives them on request only. Blocks are kept where the library can be built, unless
    CNN_JAX_KERNELS=0 turns the project's C++ off, or LD_PRELOAD names another library.
    """
    if "GLIBC_TUNABLES" in os.environ or _is_debugged() or not _is_ours() or not _is_new_glibc():
        return
    variables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if _gives_on_request() else {}
    if library := _allocator():
        variables |= {"GLIBC_TUNABLES": "", **variables, "LD_PRELOAD": str(library)}
    if variables:
        with contextlib.suppress(OSError):  # a system that forbids it: the command runs without
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def _is_debugged() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or (
        monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    )


def _is_ours() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (spec.name.split(".")[0] if spec else Path(sys.argv[0]).stem) in OURS


def _is_new_glibc() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
    except (AttributeError, OSError, ValueError):  # no Linux, or another C library
        return False


def _gives_on_request() -> bool:
    try:
        return "[madvise]" in SETTING.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def _allocator() -> Path | None:
    """Returns the library, or None where it cannot be had: the kernels say why."""
    if os.environ.get("CNN_JAX_KERNELS") == "0" or "LD_PRELOAD" in os.environ:
        return None
    try:
        command = native.compiler(("-O2",))
        key = native.key_of(command, SOURCE)
        path = native.built(command, SOURCE, native.folder() / f"allocator-{key}.so")
        if set(str(path)) & set(" :"):  # they separate the names in LD_PRELOAD
            return None
        ctypes.CDLL(str(path))
        return path
    except (native.BuildError, OSError):
        return None
