"""A library is built once for its source, compiler, flags and processor, and a damaged one is never loaded."""

import os
import stat
from pathlib import Path

import pytest

from cnn_jax.core import native

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo stub; exit; fi
echo built >> {log}
for argument; do output=$argument; done
echo library > "$output"
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Returns (command of a fast compiler, source, its log with a line for each library that it built)."""
    path, log, source = tmp_path / "fast-c++", tmp_path / "log", tmp_path / "a.cc"
    path.write_text(COMPILER.format(log=log))
    path.chmod(0o755)
    source.write_text("source")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(path))
    return native.compiler(("-O2",)), source, log


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda c: b"x" + c[1:]])
def test_a_damaged_library_is_built_again(library, damage):
    command, source, log = library
    said = []
    path = native.built(command, source, native.folder() / "a.so", begins=said.append)
    whole = path.read_bytes()
    assert whole.startswith(b"library\n") and native.is_whole(path)
    path.write_bytes(damage(whole))
    assert not native.is_whole(path)
    native.built(command, source, path, begins=said.append)
    native.built(command, source, path, begins=said.append)
    assert path.read_bytes() == whole and log.read_text() == "built\n" * 2 and said == ["fast-c++"] * 2


def test_only_the_owner_can_write_to_the_folder(library):
    path = native.folder()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    assert stat.S_IMODE(native.folder().stat().st_mode) == 0o700


def test_the_key_depends_on_source_compiler_and_processor(library, tmp_path, monkeypatch):
    command, source, _ = library
    keys = [
        native.key_of(command, source),
        native.key_of([*command, "-g"], source),
        native.key_of(command, source, "1"),
    ]
    monkeypatch.setattr(native.compilation_cache, "_instructions", lambda: "other")
    keys.append(native.key_of(command, source))
    source.write_text("source\n")
    keys.append(native.key_of(command, source))
    Path(os.environ["CXX"]).write_text("#!/bin/sh\necho newer\n")
    keys.append(native.key_of(command, source))
    assert len(set(keys)) == len(keys)


def test_a_folder_that_cannot_be_made_is_named(library, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(native.BuildError, match="cannot be used: Not a directory; XDG_CACHE_HOME names another place"):
        native.folder()
