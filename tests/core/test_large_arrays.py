"""A command restarts itself once with what its large arrays need."""

import subprocess
import sys

import pytest

from cnn_jax.core import large_arrays
from commands import environment

SCRIPT = """
import os, sys
from pathlib import Path
from cnn_jax.core import large_arrays
if sys.argv[2] == "settrace":
    sys.settrace(lambda *_: None)
if sys.argv[2] == "monitoring":
    sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, "debugger")
large_arrays.SETTING = Path(sys.argv[1])
print("begins", flush=True)
large_arrays.restart_with()
loaded = "allocator-" in Path("/proc/self/maps").read_text()
print(repr(os.environ.get("GLIBC_TUNABLES")), loaded, os.getpid(), sys.flags.dev_mode, *sys.argv[2:])
"""
ON_REQUEST, ALL, NONE = "always [madvise] never", "[always] madvise never", "always madvise [never]"
HUGE = "glibc.malloc.hugetlb=1"
WITHOUT = {"CNN_JAX_KERNELS": "0"}

needs_library = pytest.mark.skipif(large_arrays._allocator() is None, reason="no C++ compiler, or CNN_JAX_KERNELS=0")


@pytest.mark.parametrize(
    ("name", "setting", "variables", "word", "tunables", "keeps"),
    [
        pytest.param("cnn_jax", ON_REQUEST, {}, "a b", HUGE, True, marks=needs_library),
        pytest.param("cnn_jax", ALL, {}, "a b", "", True, marks=needs_library),
        pytest.param("cnn_jax", NONE, {}, "a b", "", True, marks=needs_library),
        pytest.param("cnn_jax", None, {}, "a b", "", True, marks=needs_library),
        ("cnn_jax", ON_REQUEST, WITHOUT, "a b", HUGE, False),
        ("cnn_jax", ON_REQUEST, {"LD_PRELOAD": ""}, "a b", HUGE, False),
        ("cnn_jax", ON_REQUEST, {"CXX": "/nonexistent/c++"}, "a b", HUGE, False),
        ("cnn_jax", ALL, WITHOUT, "a b", None, False),
        ("cnn_jax", ON_REQUEST, {"GLIBC_TUNABLES": ""}, "a b", "", None),
        ("cnn_jax", ON_REQUEST, {}, "settrace", None, None),
        pytest.param(
            *("cnn_jax", ON_REQUEST, {}, "monitoring", None, None),
            marks=pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="needs Python 3.12"),
        ),
        ("other", ON_REQUEST, {}, "a b", None, None),
    ],
)
@pytest.mark.skipif(not large_arrays._is_new_glibc(), reason="needs glibc 2.35")
def test_a_command_restarts_with_what_helps(tmp_path, name, setting, variables, word, tunables, keeps):
    (tmp_path / name).write_text(SCRIPT)
    if setting:
        (tmp_path / "enabled").write_text(setting)
    given = {key: value for key, value in environment().items() if key not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    command = [sys.executable, "-X", "dev", str(tmp_path / name), str(tmp_path / "enabled"), word]
    process = subprocess.Popen(command, env=given | variables, stdout=subprocess.PIPE, text=True)
    lines = process.communicate(timeout=60)[0].splitlines()
    restarts = keeps is not None and tunables is not None
    assert lines == ["begins"] * (1 + restarts) + [f"{tunables!r} {bool(keeps)} {process.pid} True {word}"]


@needs_library
def test_a_library_whose_path_cannot_be_preloaded_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "with a space"))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert large_arrays._allocator() is None
