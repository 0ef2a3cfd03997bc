"""Checks of a run before anything is written."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cnn_jax.core.errors import UserError
from cnn_jax.core.imports import is_path
from cnn_jax.display import terminal
from cnn_jax.parallel import collectives
from cnn_jax.tracking import run_folder, trackers
from cnn_jax.training import averages
from cnn_jax.training.profiling import check_steps
from cnn_jax.training.session import Options
from cnn_jax.training.setup import Setup


def check_start(setup: Setup, folder: Path, options: Options, *, name: Path | str) -> None:
    """Raises UserError unless a run can start, or resume, in `folder`, and all processes run the same."""
    trackers.check_installed(setup.config.log.trackers)
    run_folder.check_same(setup.config, folder, extend=options.extend)
    check_steps(options.profile, first=1, last=setup.total_steps)
    command = {"--workdir": str(name), "--extend": str(options.extend), "--dry-run": str(options.dry_run)}
    check_processes_agree(setup, command)
    if options.extend:
        check_longer(setup, folder, options.console)


def check_processes_agree(setup: Setup, command: dict[str, str]) -> None:
    """Raises UserError unless all processes run the same: the command, the configuration, and the data by name."""
    config = setup.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.dir = ""  # may be a copy on each machine
    data = setup.data
    texts: dict[str, Callable[[], str]] = {name: functools.partial(str, value) for name, value in command.items()}
    texts["the configuration"] = config.to_json
    texts["the data"] = lambda: json.dumps([data.identity, list(data.class_names)]) + data.listing()
    collectives.check_same(texts)


def check_longer(setup: Setup, folder: Path, console: Console) -> None:
    """Raises UserError unless `folder` has a run that this one can make longer; says if the schedule changes."""
    if not run_folder.has_checkpoint(folder):
        raise UserError(f"--extend resumes a run, but {folder} has no checkpoint: leave --extend out")
    before = run_folder.stored_config(folder)["duration"]
    if setup.total_steps < setup.to_steps(before):
        raise UserError(
            f"--extend: config.duration is {setup.config.duration!r}, but must not be shorter than the {before!r} that "
            f"{folder} has been trained for"
        )
    if setup.total_steps == setup.to_steps(before):
        return
    if isinstance(setup.average, averages.SWA):
        setup.average.check_resumes(run_folder.last_step(folder))
    schedule = setup.config.optim.schedule.name
    ends = ("cosine", "one_cycle", "polynomial", "warmup_stable_decay")
    if schedule in ends or is_path(schedule):
        terminal.say(console, f"the {schedule} schedule now ends later: its learning rate jumps at the resumed step")
