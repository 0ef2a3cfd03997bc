"""Shared by all tests: a small run on the bundled digits, the CPU, and one cache of compiled programs."""

import contextlib
import importlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Worker processes and command lines that tests start inherit these. The cache is empty at the start of a session.
_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnn_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import pytest
from hypothesis import settings
from rich.console import Console

from cnn_jax.config import recipes

ROOT = Path(__file__).parents[1]
settings.register_profile("project", deadline=None)  # speed is not tested
settings.load_profile("project")


def pytest_unconfigure():
    if _cache:
        shutil.rmtree(_cache, ignore_errors=True)


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str


@pytest.fixture
def call(capsys):
    """Runs a command in this process: `call("summary", "--config=lenet5")` returns what it printed."""

    def run(name, *arguments, code=0, cwd=ROOT):
        capsys.readouterr()
        with contextlib.chdir(cwd):
            found = importlib.import_module(f"cnn_jax.{name}").main([str(argument) for argument in arguments])
        printed = Printed(*capsys.readouterr())
        assert found == code, printed
        return printed

    return run


@pytest.fixture
def refused(call):
    """Returns the one message with which a command refuses its arguments: `refused("summary", "--config=lent5")`."""

    def run(name, *arguments, code=2, cwd=ROOT):
        out, err = call(name, *arguments, code=code, cwd=cwd)
        assert out == "" and err.startswith("error: ") and "Traceback" not in err
        return err

    return run


@pytest.fixture
def console():
    """A console that keeps what it prints: `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def small_config():
    """LeNet-5 of a quarter of the width on digits: 20 steps of 64."""
    config = recipes.get_config("lenet5")
    config.model.width = 0.25
    config.duration = "20 steps"
    config.optim.schedule.warmup = "2 steps"
    config.eval.every = "5 steps"
    config.checkpoint.every = "10 steps"
    config.log.every = "4 steps"
    config.log.tensorboard = False
    return config.lock()
