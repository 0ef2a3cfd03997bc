"""The public API: its examples run, its names are not rooms or commands, and importing it imports no jax."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnn_jax
from cnn_jax.core.errors import UserError

PACKAGE = Path(cnn_jax.__file__).parent


def test_examples_of_the_docstrings_hold():
    result = doctest.testmod(cnn_jax)
    assert result.failed == 0 and result.attempted > 10


def test_every_function_has_an_example():
    for name in set(cnn_jax.__all__) - {"create"}:
        assert ">>> " in getattr(cnn_jax, name).__doc__, name
    assert "Args:" in cnn_jax.create.__doc__


def test_names_differ_from_rooms_and_commands():
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(cnn_jax.__all__)


def test_importing_the_package_imports_no_jax():
    script = "import sys, cnn_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent).returncode == 0


def test_run_from_python_trains_and_is_scored(tmp_path, small_config, console):
    small_config.duration = "4 steps"
    final = cnn_jax.train(small_config, tmp_path / "run", console=console)
    again = cnn_jax.score(tmp_path / "run", "digits")
    assert again["examples"] == 359
    np.testing.assert_allclose(again["loss"], final["test"]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cnn_jax.score("bundled:lenet5-digits", "xo"), "tells 10 classes apart"),
        (
            lambda: cnn_jax.score("bundled:lenet5-digits", "digits", part="tset"),
            "part is 'tset', but 'digits' has train",
        ),
        (lambda: cnn_jax.train("lenet6", "x"), "did you mean 'lenet5'"),
        (lambda: cnn_jax.summarize("lenet5", widht=2), "no field 'widht'; did you mean 'width'"),
        (
            lambda: cnn_jax.features("bundled:lenet5-digits", np.zeros((1, 28, 28, 1), np.uint8), "conv9"),
            "there is no layer 'conv9'; did you mean 'conv",
        ),
    ],
)
def test_mistakes_are_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
