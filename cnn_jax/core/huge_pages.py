"""Large arrays of a process in huge pages, on Linux.

XLA allocates the temporary memory of every step anew. In pages of 4 KB, mapping and clearing it takes a fifth of the
step of a small network on a CPU. glibc requests pages of 2 MB only if GLIBC_TUNABLES is set when a process starts.
"""

import contextlib
import os
import sys
from pathlib import Path

OURS = ("cnn_jax", "experiments")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with() -> None:
    """Restarts a command of this project in the same process, with huge pages for its large arrays.

    Does nothing without glibc 2.35, where Linux gives huge pages to all programs or to none, in a debugger, in another
    program, and if GLIBC_TUNABLES is set.
    """
    if "GLIBC_TUNABLES" in os.environ or _is_debugged() or not _is_ours() or not _helps():
        return
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with contextlib.suppress(OSError):  # a system that forbids it: the command runs without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_debugged() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or (
        monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    )


def _is_ours() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (spec.name.split(".")[0] if spec else Path(sys.argv[0]).stem) in OURS


def _helps() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        numbers = tuple(int(part) for part in version.split(".")[:2])
        return name == "glibc" and numbers >= (2, 35) and "[madvise]" in SETTING.read_text(encoding="ascii")
    except (AttributeError, OSError, ValueError):  # no Linux, or another C library
        return False
