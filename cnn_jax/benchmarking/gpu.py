"""Measures a GPU in a few minutes and writes one file, by commands that anybody can run to compare.

ResNet-50 in bfloat16 next to compiled, channels-last PyTorch and the measured peak of matrix products; ResNet-20 at
batch 128, where a step is so short that the host matters, also with steps fused into one program; then as many seeds of
the paper's recipe of ResNet-20 on CIFAR-10 (He et al. 2016, section 4.2: 64,000 steps) as time allows. Each runs in its
own process, which has all memory of the device.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.core.files import write_text
from cnn_jax.tracking.recorder import read_jsonl

LEAST = 20  # seconds: with less time left, nothing is started
SHARE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # leave memory for PyTorch


@dataclass(frozen=True)
class Part:
    """A command of `cnn_jax`. Its result is the JSON that it prints; for a run, the records in its folder."""

    name: str
    words: tuple[str, ...]
    workdir: Path | None = None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "cnn_jax", *self.words]


def parts(folder: Path, *, small: bool, seconds: float) -> list[Part]:
    """Returns the parts to measure, in order.

    Args:
      folder: of the runs. small: use tiny sizes, to try it on any machine. seconds: of one measurement of speed.
    """
    size, classes, count = ("(32,32)", 10, 8) if small else ("(224,224)", 1000, 1024)
    against = ["--against=torch"] if find_spec("torch") else []
    measured = ("--only=step", "--json", f"--seconds={seconds}", *against)
    resnet50 = (
        "benchmark",
        "--config=resnet50:synthetic",
        "--config.precision=bfloat16",
        f"--config.data.image_size={size}",
        f"--config.data.num_classes={classes}",
        f"--config.data.num_images=({count},8,8)",
        *(("--config.model.width=0.125",) if small else ()),
    )
    resnet20 = ("--config=resnet20:digits",) if small else ("--config=resnet20:cifar10",)
    batches = (4, 8) if small else (256, 1024)
    found = [
        Part(f"ResNet-50, bfloat16, batch {batch}", (*resnet50, f"--config.batch_size={batch}", *measured))
        for batch in batches
    ]
    fused = ("benchmark", *resnet20, "--config.batch_size=128", "--config.data.augment=()")
    speed = Part("ResNet-20, batch 128", (*fused, "--only=step,both,fused", "--json", f"--seconds={seconds}", *against))
    short = ("--config.duration=8 steps", "--config.optim.schedule.warmup=0 epochs") if small else ()
    runs = [
        Part(f"ResNet-20, the paper's recipe, seed {seed}", words, workdir)
        for seed in range(1 if small else 5)
        for workdir in [folder / f"resnet20-seed-{seed}"]
        for words in [("train", *resnet20, f"--config.seed={seed}", *short, f"--workdir={workdir}")]
    ]
    return [found[0], speed, found[1], *runs]


def measure(
    output: Path, *, minutes: float, small: bool, seconds: float, say: Callable[[str], None]
) -> Mapping[str, Any]:
    """Runs the parts until `minutes` are over and returns their results, which are written after each part.

    {"minutes", "parts": [{"name", "command", "seconds", "result" or "why"}]}: "why" says why there is no result. A run
    that is cut off resumes with its command. If PyTorch is missing, its part is left out.

    Raises:
      UserError: jax has no GPU here, and sizes are not `small`.
    """
    began = time.monotonic()
    platform = backend()
    check(small or platform == "gpu", f"jax computes on {platform!r}, not on a GPU: --small tries the command here")
    found: dict[str, Any] = {"minutes": minutes, "small": small, "parts": []}
    for part in parts(output.with_suffix(""), small=small, seconds=seconds):
        left = began + 60 * minutes - time.monotonic()
        say(f"{part.name}: {left:.0f} s left")
        started = time.monotonic()
        outcome = one(part, left) if left > LEAST else {"why": "no time was left"}
        taken = time.monotonic() - started
        words = ["cnn_jax", *part.words]
        found["parts"].append({"name": part.name, "command": words, "seconds": taken, **outcome})
        write_text(output, json.dumps(found, indent=1) + "\n")
    return found


def backend() -> str:
    """Returns the platform that jax computes on, asked in a process of its own: this one leaves the GPU alone."""
    line = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(line, capture_output=True, text=True)
    check(done.returncode == 0, f"jax finds no device: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def one(part: Part, limit: float) -> dict[str, Any]:
    """Returns {"result"} of a part that ends within `limit` seconds, or {"why"}."""
    try:
        done = subprocess.run(part.command, capture_output=True, text=True, timeout=limit, env=os.environ | SHARE)
    except subprocess.TimeoutExpired:
        reached = {"result": recorded(part.workdir)} if part.workdir else {}
        return {"why": f"it was not done after {limit:.0f} s"} | reached
    if done.returncode:
        return {"why": done.stderr.strip()[-1000:] or f"exit code {done.returncode}"}
    return {"result": recorded(part.workdir) if part.workdir else json.loads(done.stdout)}


def recorded(folder: Path) -> dict[str, Any]:
    """Returns a run's last record of each kind."""
    return {record["kind"]: record for record in read_jsonl(folder / "metrics.jsonl")}


def lines(found: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    """Returns the rows (part, number, its meaning) of a table for people."""
    rows: list[tuple[str, str, str]] = []
    for part in found["parts"]:
        result = part.get("result") or {}
        speeds = result.get("images_per_second") or {}
        rows += [(part["name"], f"{v['median']:,.0f}", f"images/s, {name}") for name, v in speeds.items() if v]
        if share := result.get("share_of_matmul_peak"):
            rows.append((part["name"], f"{share:.1%}", "of the peak of matrix products"))
        if "test" in result:
            rows.append((part["name"], f"{1 - result['test']['error']:.2%}", "test accuracy"))
        if "why" in part:
            rows.append((part["name"], "-", part["why"].splitlines()[-1]))
    return rows
