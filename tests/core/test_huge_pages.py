"""A command restarts itself once if huge pages help."""

import os
import subprocess
import sys

import pytest

from commands import environment

SCRIPT = """
import os, sys
from pathlib import Path
from cnn_jax.core import huge_pages
if sys.argv[2] == "settrace":
    sys.settrace(lambda *_: None)
if sys.argv[2] == "monitoring":
    sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, "debugger")
huge_pages.SETTING = Path(sys.argv[1])
print("begins", flush=True)
huge_pages.restart_with()
print(os.environ.get("GLIBC_TUNABLES"), os.getpid(), sys.flags.dev_mode, *sys.argv[2:])
"""


def is_new_glibc():
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
    except (AttributeError, ValueError):
        return False
    return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


@pytest.mark.parametrize(
    ("name", "setting", "tunables", "word", "expected"),
    [
        ("cnn_jax", "always [madvise] never", None, "a b", "glibc.malloc.hugetlb=1"),
        ("cnn_jax", "[always] madvise never", None, "a b", None),
        ("cnn_jax", "always madvise [never]", None, "a b", None),
        ("cnn_jax", None, None, "a b", None),
        ("cnn_jax", "always [madvise] never", "", "a b", ""),
        ("cnn_jax", "always [madvise] never", None, "settrace", None),
        pytest.param(
            *("cnn_jax", "always [madvise] never", None, "monitoring", None),
            marks=pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="needs Python 3.12"),
        ),
        ("other", "always [madvise] never", None, "a b", None),
    ],
)
@pytest.mark.skipif(not is_new_glibc(), reason="needs glibc 2.35")
def test_a_command_restarts_if_huge_pages_help(tmp_path, name, setting, tunables, word, expected):
    (tmp_path / name).write_text(SCRIPT)
    if setting:
        (tmp_path / "enabled").write_text(setting)
    given = {key: value for key, value in environment().items() if key != "GLIBC_TUNABLES"}
    given |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-X", "dev", str(tmp_path / name), str(tmp_path / "enabled"), word]
    process = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)
    lines = process.communicate(timeout=60)[0].splitlines()
    starts = 2 if expected else 1
    assert lines == ["begins"] * starts + [f"{expected} {process.pid} True {word}"]
