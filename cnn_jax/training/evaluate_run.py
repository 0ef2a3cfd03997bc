"""The evaluation of what runs have saved: one checkpoint, or an ensemble (Krizhevsky et al. 2012, section 6)."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cnn_jax.checkpoint import bucket
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core import files
from cnn_jax.core.errors import UserError, check
from cnn_jax.data.dataset import FILES
from cnn_jax.display import plots, terminal
from cnn_jax.eval import evaluation, results
from cnn_jax.parallel import collectives
from cnn_jax.tracking import run_folder
from cnn_jax.tracking.recorder import scalars
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.setup import Setup, build
from cnn_jax.training.start_check import check_processes_agree
from cnn_jax.training.state import States

Member = tuple[Any, Path, str]  # configuration, folder of the run, and "latest", "best" or a step
MAY_DIFFER = ("eval.", "batch_size", "cache_features")  # from the configuration of the run


def evaluate_run(
    config: Any,
    folder: Path | str,
    which: str,
    *,
    console: Console | None = None,
    json_file: Path | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of `folder` ("latest", "best" or a step) on the validation and the test part.

    Appends the numbers to evaluations.jsonl in the folder and returns them as `loop.run` does.

    Args:
      json_file, output: receive what `results.report` writes about the test part.

    Raises:
      UserError: see `setup.build`; there is no such checkpoint, or it does not fit `config`.
    """
    console = console or collectives.console()
    with bucket.opened(folder) as here:
        if not (here / "checkpoints").is_dir():
            raise UserError(f"{folder} has no checkpoints yet: train with --workdir={folder}")
        setup = build(config)
        run_folder.check_same(setup.config, here, may_differ=MAY_DIFFER)
        if not os.access(here, os.W_OK):
            terminal.say(console, f"{folder} cannot be written: the numbers will be printed, and not recorded there")
        check_processes_agree(setup, {"--workdir": str(folder), "--checkpoint": which})
        own = run_folder.identity(run_folder.stored_config(here))
        with Checkpoints(here, shared=isinstance(folder, Path)) as checkpoints:

            def read(step: int) -> Any:
                run_folder.check_identity(checkpoints.run(step), own, checkpoints.folder / str(step))
                return States(setup).restore(checkpoints, step)

            report = partial(terminal.say, console)
            if jax.process_count() == 1:
                step, state = checkpoints.read_chosen(which, read, report)
            else:  # all processes read the same one, at once
                step = collectives.decided(lambda: checkpoints.select(which, report))
                state = read(step)
        evaluator = Evaluator(setup)
        with terminal.waiting(console, "evaluating"):
            parts = (part for part in ("validation", "test") if part in setup.data.parts)
            final = {part: evaluator.evaluate(state, part) for part in parts}
        terminal.say(console, f"{setup.config.model.name} at step {step:,} of {folder}")
        terminal.print_results(final, console)
        with files.storage_errors(f"the evaluation cannot be written to {folder}"):
            _record(here, {part: {"kind": part, "step": step} | scalars(m) for part, m in final.items()})
            if setup.config.eval.confusion_matrix and collectives.is_first():
                confusion = final["test"]["confusion"]
                try:
                    plots.plot_confusion(confusion, setup.data.class_names, here / "confusion_matrix.png")
                except UserError:
                    raise
                except Exception as error:
                    terminal.say(console, f"the confusion matrix cannot be drawn: {type(error).__name__}: {error}")
        if json_file or output:
            found = {part: _predictions(evaluator, state, part, f"{folder}@{step}") for part in final}
            results.report(found, "test", console, json_file=json_file, folder=output, accuracy=False)
    return final


def _predictions(evaluator: Evaluator, state: Any, part: str, name: str) -> results.Predictions:
    """Returns what the run `name` says of a part, seen as config.eval.protocol says."""
    check(jax.process_count() == 1, "--json and --output go with one process, but this is one of several: start one")
    protocol = evaluator.describe(evaluator.setup.config.eval.protocol)
    return _named(evaluator.setup, part, name, protocol, *evaluator.predict(state, part))


def _named(
    setup: Setup, part: str, name: str, protocol: str, probabilities: np.ndarray, labels: np.ndarray
) -> results.Predictions:
    """Returns predictions with the data that they are of."""
    data, config = setup.data, setup.config
    return results.Predictions(
        network=name,
        data=config.data.dir if config.data.source in FILES else data.name,
        part=part,
        protocol=protocol,
        class_names=list(data.class_names),
        probabilities=probabilities,
        labels=labels,
        split=data.parts[part],
    )


def evaluate_ensemble(
    members: Sequence[Member],
    folder: Path | None = None,
    *,
    console: Console | None = None,
    json_file: Path | None = None,
    output: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluates each run on the test part, and the average of their class probabilities, each with equal weight.

    Networks may differ, and so may image sizes, normalization and protocols; the test examples may not.

    Args:
      folder: receives the numbers, appended to evaluations.jsonl, if it is given.
      json_file, output: of the average; see `results.report`.

    Returns:
      Metrics as `loop.run` does, of each member by its name "FOLDER@WHICH", and of the "ensemble".

    Raises:
      UserError: fewer than two members, one twice, runs on different test data; see `setup.build`.
    """
    console = console or Console()
    names = [f"{path}@{which}" for _, path, which in members]
    check(jax.process_count() == 1, "--checkpoints evaluates in one process, but this is one of several: start one")
    check(len(members) > 1, f"an ensemble needs at least two runs, but --checkpoints names {len(members)}")
    check(len(set(names)) == len(names), f"--checkpoints names a run twice: {', '.join(names)}")
    found: dict[str, dict[str, Any]] = {}
    total: np.ndarray | None = None
    truth: tuple[Any, np.ndarray] | None = None  # the data set and the labels
    last: Setup | None = None
    for name, (config, path, which) in zip(names, members, strict=True):
        last = setup = build(config)
        run_folder.check_same(setup.config, path, may_differ=MAY_DIFFER)
        part, evaluator = setup.data.parts["test"], Evaluator(setup)
        with Checkpoints(path) as checkpoints:
            read = partial(States(setup).restore, checkpoints)
            _, state = checkpoints.read_chosen(
                which, read, partial(terminal.say, console), flag=f"--checkpoints={name}"
            )
        with terminal.waiting(console, f"evaluating {name}"):
            probabilities, labels = evaluator.predict(state, "test")
        data = (setup.data.name, setup.config.data.test, setup.data.class_names)
        if truth is not None and (data != truth[0] or not np.array_equal(labels, truth[1])):
            raise UserError(
                f"{name} is evaluated on {data[0]} ({data[1]}), but {names[0]} on {truth[0][0]} ({truth[0][1]}), or on "
                "other examples of it: an ensemble needs one test part"
            )
        truth = truth or (data, labels)
        total = probabilities if total is None else total + probabilities
        protocol = evaluator.describe(config.eval.protocol)
        found[name] = evaluation.measure(probabilities, labels, part) | {"protocol": protocol}
    assert total is not None and truth is not None and last is not None
    words = list(dict.fromkeys(metrics["protocol"] for metrics in found.values()))
    protocol = f"{len(members)} networks, {'; '.join(words)}"
    found["ensemble"] = evaluation.measure(total / len(members), truth[1], part) | {"protocol": protocol}
    terminal.print_results(found, console)
    if folder is not None:
        records = {name: {"kind": "ensemble", "members": names, "of": name} | scalars(m) for name, m in found.items()}
        with files.locked(folder):
            _record(folder, records)
    if json_file is not None or output is not None:
        average = _named(last, "test", " + ".join(names), protocol, total / len(members), truth[1])
        results.report({"test": average}, "test", console, json_file=json_file, folder=output, accuracy=False)
    return found


def _record(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Appends records to evaluations.jsonl."""
    if collectives.is_first():
        with (folder / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records.values())
