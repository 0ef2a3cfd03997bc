"""Large arrays of a process in huge pages, on Linux.

XLA takes the memory of a step anew each time. In pages of 4 KB the kernel clears and maps hundreds of MB one page at a
time, which is a fifth of a step on a CPU; in pages of 2 MB it is not. The C library asks for such pages only if its
environment says so when a process begins.
"""

import os
import sys
from pathlib import Path

OURS = ("cnn_jax", "experiments")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with() -> None:
    """Starts a command of this project again, as the same process, with huge pages for its large arrays.

    Does nothing where that does not help or is not wanted: another C library than glibc 2.35 or newer, a kernel that
    gives huge pages to all or to none, a debugger, a command of another program, GLIBC_TUNABLES in the environment.
    """
    if "GLIBC_TUNABLES" in os.environ or sys.gettrace() is not None or not _is_ours() or not _helps():
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_ours() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (spec.name.split(".")[0] if spec else Path(sys.argv[0]).stem) in OURS


def _helps() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        newest = tuple(int(part) for part in version.split(".")[:2])
        return name == "glibc" and newest >= (2, 35) and "[madvise]" in SETTING.read_text(encoding="ascii")
    except (AttributeError, OSError, ValueError):  # no Linux, or another C library
        return False
