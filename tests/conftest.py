"""Shared by all tests: a small run on the bundled digits, the CPU, and one cache of compiled programs."""

import io
import os
import shutil
import tempfile

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

settings.register_profile("project", deadline=None)  # speed is not tested
settings.load_profile("project")


def pytest_unconfigure():
    if _cache:
        shutil.rmtree(_cache, ignore_errors=True)


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
