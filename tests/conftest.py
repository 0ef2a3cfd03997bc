"""Shared by all tests: a small run on the bundled digits, and no GPU."""

import io
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from rich.console import Console

from configs import lenet5


@pytest.fixture
def console():
    """A console that keeps what it prints: `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def small_config():
    """LeNet-5 of a quarter of the width on digits: 20 steps of 64."""
    config = lenet5.get_config()
    config.model.width = 0.25
    config.duration = "20 steps"
    config.optim.schedule.warmup = "2 steps"
    config.eval.every = "5 steps"
    config.checkpoint.every = "10 steps"
    config.log.every = "4 steps"
    config.log.tensorboard = False
    return config.lock()
