"""Trains or evaluates a network.

python -m cnn_jax.main --config=configs/resnet50.py
python -m cnn_jax.main --config=configs/resnet20.py:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
python -m cnn_jax.main --mode=eval --workdir=runs/mine --checkpoint=best --config.eval.protocol=flip
python -m cnn_jax.main --mode=eval --checkpoints=runs/a,runs/b@best,runs/c
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from cnn_jax import commandline, storage
from cnn_jax.commandline import changed, explain, given_config, launch, needed_config
from cnn_jax.errors import UserError, check_folder
from configs import replay

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint of --workdir.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --mode=eval: latest (the default), best, or a step.")
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints",
    [],
    "With --mode=eval: folders of runs whose class probabilities are averaged, as FOLDER, FOLDER@best.",
)
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")
_EXTEND = flags.DEFINE_bool("extend", False, "Allow a longer --config.duration than that of the run in --workdir.")
_PROFILE = flags.DEFINE_string("profile", None, "START:END: trace these steps, both included, into WORKDIR/profile.")
# Of several processes; clusters that jax knows (SLURM, TPU pods, Open MPI) need none of them.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, the same for all processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
_START = flags.DEFINE_integer("start-timeout", 300, "Seconds to wait for the other processes at the start.", 1)
_SILENCE = flags.DEFINE_integer("heartbeat-timeout", 60, "Seconds of silence until a process counts as lost.", 1)


def start() -> None:
    """Runs what the flags say."""
    for folder in _CHECKPOINTS.value:
        check_folder("--checkpoints", folder)
    workdir = storage.located("--workdir", _WORKDIR.value) if _WORKDIR.value else None
    dry_run = bool(flags.FLAGS["dry-run"].value)
    if _MODE.value == "eval":
        for flag in ("dry-run", "extend", "profile"):
            if flags.FLAGS[flag].value:
                raise UserError(f"--{flag} goes with training, not with --mode=eval")
        if _CHECKPOINTS.value:
            evaluate_ensemble(workdir)
        else:
            evaluate(workdir)
        return
    for flag in ("checkpoint", "checkpoints"):
        if flags.FLAGS[flag].value:
            raise UserError(f"--{flag} goes with --mode=eval: training goes on from the latest one of --workdir")
    config = needed_config()
    from cnn_jax import clock, compilation_cache, provenance, together, train

    profile = clock.steps_to_trace(_PROFILE.value) if _PROFILE.value is not None else None
    compilation_cache.enable()
    data_set = config.data.name.replace("/", "-")
    default = Path("runs") / f"{config.model.get('name')}-{data_set}-{time.strftime('%Y%m%d-%H%M%S')}"
    # What is left is the command that repeats the run in a new folder.
    arguments = provenance.without(
        sys.argv[1:],
        *("workdir", "extend!", "profile", "coordinator", "processes", "process", "start-timeout", "heartbeat-timeout"),
    )
    with session():
        train.run(
            config,
            workdir or Path(together.decided(lambda: str(default))),
            dry_run=dry_run,
            extend=_EXTEND.value,
            profile=profile,
            began=commandline.BEGAN,
            arguments=arguments,
        )


def session() -> contextlib.AbstractContextManager[None]:
    """Returns the session with the other processes; see `distributed.session`."""
    from cnn_jax import distributed

    return distributed.session(
        _COORDINATOR.value,
        _PROCESSES.value,
        _PROCESS.value,
        start_timeout=_START.value,
        heartbeat_timeout=_SILENCE.value,
    )


def evaluate(workdir: Path | str | None) -> None:
    """Evaluates a checkpoint of `workdir`, with its own configuration; the command line may change how it evaluates."""
    if workdir is None:
        raise UserError("--mode=eval needs --workdir=FOLDER, the folder of a run, or --checkpoints=FOLDER,FOLDER")
    config = given_config()
    if config is None:
        with storage.opened(workdir) as kept:
            config = recorded_config(kept.path)
    from cnn_jax import compilation_cache, train

    compilation_cache.enable()
    with session():
        train.evaluate_run(config, workdir, _CHECKPOINT.value or "latest")


def evaluate_ensemble(workdir: Path | str | None) -> None:
    """Evaluates the runs of --checkpoints and their average; `workdir` receives the numbers, if it is given."""
    if _CHECKPOINT.value or given_config():
        raise UserError(
            "--checkpoints evaluates runs with their own configurations, each at FOLDER@latest, @best or @STEP: leave "
            "out --config and --checkpoint (--config.eval.protocol=flip alone changes how all are evaluated)"
        )
    if workdir is not None:
        check_folder("--workdir", str(workdir))
    members = []
    for word in _CHECKPOINTS.value:
        folder, _, which = word.rpartition("@")
        if which not in ("latest", "best") and not which.isdecimal():  # a folder alone, whose name may have an @
            folder, which = word, "latest"
        members.append((recorded_config(Path(folder)), Path(folder), which))
    from cnn_jax import compilation_cache, ensemble

    compilation_cache.enable()
    with session():
        ensemble.evaluate(members, Path(workdir) if workdir else None)


def recorded_config(workdir: Path) -> Any:
    """Returns the configuration of the run in `workdir` with the changes of the command line."""
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds no run: there is no {workdir / 'config.json'}")
    try:
        return changed(replay.get_config(str(workdir / "config.json")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise explain(error) from None


def cli() -> None:
    """Entry point."""
    launch(start)


if __name__ == "__main__":
    cli()
