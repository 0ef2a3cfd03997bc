"""The kernels are built once; without a compiler one line says so."""

import os
import shutil
import subprocess
import sys

import pytest

from cnn_jax.core import native
from cnn_jax.kernels import build

TARGET = build.target()
needs_library = pytest.mark.skipif(TARGET is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")

# Copies the library of this machine instead of compiling for many seconds, and counts how often.
COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo stub; exit; fi
echo built >> {log}
sleep {seconds}
for argument; do output=$argument; done
cp {library} "$output"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Sets CXX to a fast program; returns a file with one line for each library that it built."""

    def make(text=COMPILER, seconds=0):
        path, log = tmp_path / "fast-c++", tmp_path / "log"
        library = native.folder() / f"kernels-{TARGET}.so"
        path.write_text(text.format(log=log, library=library, seconds=seconds))
        path.chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("CXX", str(path))
        return log

    return make


@pytest.fixture
def load(monkeypatch):
    """Loads as a new process would, without changing XLA's handlers; returns the hash and the printed text."""

    def run(capsys):
        monkeypatch.delenv("CNN_JAX_KERNELS", raising=False)
        monkeypatch.setattr(build, "register", lambda library, key: None)
        build._load_once.cache_clear()
        try:
            return build.target(), capsys.readouterr().err
        finally:
            build._load_once.cache_clear()
            monkeypatch.undo()

    return run


@needs_library
def test_a_second_process_takes_the_library_of_the_first(compiler, load, capsys, monkeypatch):
    log = compiler()
    variables = dict(os.environ)
    first, err = load(capsys)
    assert err.startswith("building the CPU kernels with fast-c++, once on this machine") and err.count("\n") == 1
    for name in ("XDG_CACHE_HOME", "CXX"):
        monkeypatch.setenv(name, variables[name])
    assert load(capsys) == (first, "")
    assert log.read_text() == "built\n"


@needs_library
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_a_folder_of_another_user_is_not_used(compiler, load, capsys, monkeypatch):
    compiler()
    native.folder()
    monkeypatch.setattr(native.os, "getuid", lambda: 12345)
    found, err = load(capsys)
    assert found is None and "belongs to another user; XDG_CACHE_HOME names another place" in err


def test_without_a_compiler_one_line_says_how_to_get_one(load, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    found, err = load(capsys)
    assert found is None and err == (
        "warning: convolutions run as XLA's own operations, which are slower on a CPU: there is no C++ compiler. "
        "To get one: apt-get install g++\n"
    )


def test_a_named_compiler_that_is_missing_is_reported(load, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    found, err = load(capsys)
    assert found is None and "CXX is '/nonexistent/c++', which is not a program" in err and err.count("\n") == 1


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell")
def test_a_build_that_fails_says_the_first_error(compiler, load, capsys):
    script = '#!/bin/sh\nif [ "$1" = --version ]; then echo stub; exit; fi\necho "x.cc:1: error: bad" >&2\nexit 1\n'
    compiler(script)
    found, err = load(capsys)
    assert found is None and "fast-c++ fails: x.cc:1: error: bad" in err and err.count("\n") == 2
    assert not list(native.folder().glob("*.partial"))


def test_the_environment_turns_the_kernels_off(monkeypatch):
    monkeypatch.setenv("CNN_JAX_KERNELS", "0")
    assert build.target() is None


@needs_library
@pytest.mark.slow
def test_only_one_of_several_processes_builds(compiler):
    log = compiler(seconds=2)
    line = [sys.executable, "-c", "from cnn_jax.kernels import build; print(build.target())"]
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate() for process in processes]
    assert len({out for out, _ in printed}) == 1 and printed[0][0].strip() != "None"
    assert log.read_text() == "built\n" and sum("building" in err for _, err in printed) == 1
