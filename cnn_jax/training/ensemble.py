"""Ensembles: class probabilities of several trained networks, averaged (Krizhevsky et al. 2012, section 6)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core.errors import UserError, check
from cnn_jax.display import show
from cnn_jax.eval import evaluation
from cnn_jax.tracking import workdir
from cnn_jax.tracking.metrics import scalars
from cnn_jax.training.build import Run

Member = tuple[Any, Path, str]  # configuration, folder of the run, and "latest", "best" or a step


def evaluate(
    members: Sequence[Member], folder: Path | None = None, *, console: Console | None = None
) -> dict[str, dict[str, Any]]:
    """Evaluates each run on the test part, and the average of their class probabilities, each with equal weight.

    Networks may differ, and so may image sizes, normalisation and protocols; the test examples may not.

    Args:
      folder: receives the numbers, appended to evaluations.jsonl, if it is given.

    Returns:
      Metrics as `train.run` does, of each member by its name "FOLDER@WHICH", and of the "ensemble".

    Raises:
      UserError: fewer than two members, one twice, runs on different test data; see `build.Run`.
    """
    console = console or Console()
    names = [f"{path}@{which}" for _, path, which in members]
    check(
        jax.process_count() == 1, "--checkpoints evaluates in one process, but this is one of several: start it alone"
    )
    check(len(members) > 1, f"an ensemble needs at least two runs, but --checkpoints names {len(members)}")
    check(len(set(names)) == len(names), f"--checkpoints names a run twice: {', '.join(names)}")
    found: dict[str, dict[str, Any]] = {}
    total: np.ndarray | None = None
    truth: tuple[Any, np.ndarray] | None = None  # the data set and the labels
    for name, (config, path, which) in zip(names, members, strict=True):
        this = Run(config)
        workdir.check_same(this.config, path, may_differ=("eval.", "batch_size", "cache_features"))
        part = this.data.parts["test"]
        with Checkpoints(path) as checkpoints:
            chosen = checkpoints.select(which, lambda text: show.say(console, text), flag=f"--checkpoints={name}")
            state = this.restore(checkpoints, chosen)
        with show.waiting(console, f"evaluating {name}"):
            probabilities, labels = this.predict(state, "test")
        data = (this.data.identity["name"], config.data.test, this.data.class_names)
        if truth is not None and (data != truth[0] or not np.array_equal(labels, truth[1])):
            raise UserError(
                f"{name} is evaluated on {data[0]} ({data[1]}), but {names[0]} on {truth[0][0]} ({truth[0][1]}), or on "
                "other examples of it: an ensemble needs one test part"
            )
        truth = truth or (data, labels)
        total = probabilities if total is None else total + probabilities
        found[name] = evaluation.measure(probabilities, labels, part) | {
            "protocol": this.protocol(config.eval.protocol)
        }
    assert total is not None and truth is not None
    words = list(dict.fromkeys(metrics["protocol"] for metrics in found.values()))
    found["ensemble"] = evaluation.measure(total / len(members), truth[1], part) | {
        "protocol": f"{len(members)} networks, {'; '.join(words)}"
    }
    if folder is not None:
        with workdir.locked(folder), (folder / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            for name, metrics in found.items():
                file.write(json.dumps({"kind": "ensemble", "members": names, "of": name} | scalars(metrics)) + "\n")
    show.print_results(found, console)
    return found
