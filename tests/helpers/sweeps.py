"""Folders of sweeps, made without training."""

import json
from pathlib import Path

from cnn_jax.sweeping.arm_results import read as read_results
from cnn_jax.sweeping.plan import plan, tasks
from cnn_jax.sweeping.question import load
from run_folders import START, make

SMALL = Path(__file__).parent / "small_experiment.py"
ERRORS = {"width=0.1": (0.10, 0.12, 0.11), "width=0.05": (0.15, 0.16, 0.17)}


def sweep(folder, errors, experiment=None, falls=()):
    """Makes the folder of a sweep whose arms ended with these test errors, by seed; returns (experiment, plan).

    falls: of arms, points by which the training error falls over the last fifth.
    """
    experiment = experiment or load(str(SMALL))
    planned = plan(experiment)
    values = {one.arm.name: errors.get(one.arm.name, ()) for one in planned}
    for task in tasks(planned, range(max(map(len, values.values()), default=0)), folder):
        if task.seed < len(values[task.arm.name]):
            write(task, values[task.arm.name][task.seed], dict(falls).get(task.arm.name, 0.0))
    return experiment, planned


def write(task, error, fall=0.0, loss=1.0):
    """Writes the finished run of a task: 4 steps of 0.2 epochs in all, three records in the last fifth of them."""
    place = make(task.folder, error=error, starts=(START | {"date": "2026-01-02T03:04:05Z"},), step=4)
    (place / "config.json").write_text(task.config.to_json())
    (test,) = (json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()[1:])
    points = ((1, 0.05, 100.0), (2, 0.1, 200.0), (4, 0.16, 400.0), (4, 0.18, 400.0), (4, 0.2, 400.0))
    curve = [
        {
            "kind": kind,
            "step": step,
            "epoch": epoch,
            "error": error + (1 / step if step < 4 else fall / 100 * (0.2 - epoch) / 0.04),
            "loss": loss,
            "images_per_second": speed,
        }
        for step, epoch, speed in points
        for kind in ("train", "validation")
    ]
    own = {"kind": "train_part", "step": 4, "epoch": 0.2, "error": error / 2}
    (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (*curve, own, test)))


def read(planned, folder, seeds=5):
    return read_results(planned, folder, range(seeds))
