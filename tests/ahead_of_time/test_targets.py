"""The targets of --for, without the compilers: parsing, machines, messages."""

import importlib.util
import sys
from dataclasses import fields

import pytest

from cnn_jax.ahead_of_time import targets
from cnn_jax.core.errors import UserError
from cnn_jax.parallel.chips import CHIPS, GPU


@pytest.mark.parametrize(
    ("text", "count", "hosts"),
    [
        ("v5e:1x1", 1, 1),
        ("v5e:2x4", 8, 1),
        ("v5e:4x4", 16, 4),
        ("v5e:16x16", 256, 64),
        ("v4:2x2x1", 4, 1),
        ("v5p:2x2x2", 8, 2),
        ("v6e:2x2", 4, 1),
        ("h200x1", 1, 1),
        ("h100x8", 8, 1),
        ("a100x16", 16, 2),
    ],
)
def test_a_target_says_how_many_chips_and_machines(text, count, hosts):
    target = targets.parse(text)
    assert (target.name, target.count, target.hosts) == (text, count, hosts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:2x2", "'v5:2x2', but must name a chip of v4, v5e, .*did you mean"),
        ("h100", "how many GPUs, such as h100x8"),
        ("h100:8", "how many GPUs, such as h100x8"),
        ("h100x0", "how many GPUs"),
        ("h100x12", "fill machines of 8, such as h100x16"),
        ("v5e:8", "a slice in 2 dimensions, such as v5e:2x2"),
        ("v5e:2x2x1", "a slice in 2 dimensions"),
        ("v4:2x2", "a slice in 3 dimensions, such as v4:2x2x1"),
        ("v5ex4", "a slice in 2 dimensions"),
        ("v5e:0x2", "a slice in 2 dimensions"),
        ("", "must name a chip"),
    ],
)
def test_an_invalid_target_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        targets.parse(text)


def test_every_chip_has_its_facts_and_their_source():
    for name, chip in CHIPS.items():
        assert chip.source and "/" in chip.source, name
        assert 10 * 2**30 < chip.memory < 200 * 2**30 and 1e14 < chip.peak < 1e15, name
        known = {field.name: getattr(chip, field.name) for field in fields(chip) if field.name != "clock"}
        assert all(value is not None for value in known.values()), name
        assert chip.clock is None or 0.9e9 < chip.clock < 2e9, name


def test_a_gpu_has_the_memory_that_jax_takes():
    assert CHIPS["h100"].memory == int(0.75 * 84_942_979_072)


def test_the_description_of_a_gpu_holds_its_facts():
    for chip in CHIPS.values():
        if isinstance(chip, GPU):
            text = chip.description()
            assert f'name: "{chip.title}"' in text and f"core_count: {chip.multiprocessors}" in text
            assert text.count("{") == text.count("}") == 3


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [("v5e:1x1", "libtpu", r"pip install 'cnn-jax\[tpu\]'"), ("h100x1", "jax_plugins", r"'cnn-jax\[cuda\]'")],
)
def test_a_missing_compiler_is_one_message(monkeypatch, name, package, message):
    found = importlib.util.find_spec
    missing = lambda word, *rest: None if word.startswith(package) else found(word, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    monkeypatch.setattr(sys, "version_info", (3, 12))
    with pytest.raises(UserError, match=rf"--for={name} compiles with .* is not installed: .*{message}"):
        targets.check_installed(targets.parse(name))


def test_gpus_need_a_later_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11))
    with pytest.raises(UserError, match=r"--for=h100x8 needs Python 3.12 or later.*; this is 3.11"):
        targets.check_installed(targets.parse("h100x8"))
