"""Compiled programs on the disk, so that the second start of a configuration compiles nothing."""

import hashlib
import platform
import sys
from pathlib import Path

from cnn_jax.core.files import cache_folder

MAX_BYTES = 4 * 2**30  # the programs that were not used for the longest time are removed beyond this


def enable() -> None:
    """Keeps compiled programs in `folder()`, unless jax's own environment variables say otherwise.

    JAX_COMPILATION_CACHE_DIR is another place, JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            folder().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(
                f"warning: compiled programs are not kept: {folder()}: {error.strerror}; "
                "JAX_COMPILATION_CACHE_DIR names another place",
                file=sys.stderr,
            )
            return
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def folder() -> Path:
    """Returns $XDG_CACHE_HOME/cnn_jax/PROCESSOR, by default below ~/.cache.

    Programs for a CPU hold its own instructions: a home that several kinds of machine share needs a folder for each.
    """
    return cache_folder() / f"{platform.machine()}-{_instructions()}"


def _instructions() -> str:
    """Returns a short hash of the instruction sets of this machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = platform.processor()
    lines = {line for line in text.splitlines() if line.startswith(("flags", "Features"))} or {text}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]
