"""Shared by all tests: a small run on the bundled digits, the CPU, and one cache of compiled programs."""

import contextlib
import gc
import importlib
import io
import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# The processes that tests start inherit these. Programs are compiled quickly, not for speed, and kept between sessions.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 * 1024**3))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest
from hypothesis import settings
from rich.console import Console

from cnn_jax.config import recipes
from cnn_jax.kernels import build

build.target()  # built once, before tests that look at what a command prints

# Property tests: the same few examples with every commit, many new ones with --hypothesis-profile=nightly.
settings.register_profile("commit", deadline=None, max_examples=30, derandomize=True, database=None)
settings.register_profile("nightly", deadline=None, max_examples=200, print_blob=True)
settings.load_profile("commit")


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module():
    """Drops compiled programs after a module if a worker has gathered many: each keeps its machine code in memory."""
    yield
    if os.path.exists("/proc/self/statm") and resident_bytes() > 1e9:
        jax.clear_caches()
        gc.collect()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    """LeNet-5 at a quarter of the width on digits: 20 steps of 64 images."""
    config = recipes.get_config("lenet5")
    config.model.width = 0.25
    config.duration = "20 steps"
    config.optim.schedule.warmup = "2 steps"
    config.eval.every = "5 steps"
    config.checkpoint.every = "10 steps"
    config.log.every = "4 steps"
    config.log.trackers = ""
    return config.lock()
