"""Trains or evaluates a network.

python -m cnn_jax.main --config=configs/resnet50.py
python -m cnn_jax.main --config=configs/resnet20.py:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
python -m cnn_jax.main --mode=eval --workdir=runs/mine --checkpoint=best --config.eval.protocol=flip
python -m cnn_jax.main --mode=eval --checkpoints=runs/a,runs/b@best,runs/c
"""

from pathlib import Path
from typing import Any

from absl import flags

from cnn_jax.checkpoint import bucket
from cnn_jax.config import commandline, recipes
from cnn_jax.config.commandline import changed, explain, given_config, launch, needed_config
from cnn_jax.core.errors import UserError, check_folder
from cnn_jax.training import training_flags
from cnn_jax.training.training_flags import given_workdir, session, train

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
flags.adopt_module_key_flags(training_flags)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint of --workdir.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --mode=eval: latest (the default), best, or a step.")
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints",
    [],
    "With --mode=eval: folders of runs whose class probabilities are averaged, as FOLDER, FOLDER@best.",
)


def start() -> None:
    """Runs what the flags say."""
    workdir = given_workdir()
    for folder in _CHECKPOINTS.value:
        check_folder("--checkpoints", folder)
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
    with session() as stop:
        config = needed_config()
        from cnn_jax.core import compilation_cache

        compilation_cache.enable()
        train(config, name=str(config.model.get("name")), stop=stop)


def evaluate(workdir: Path | str | None) -> None:
    """Evaluates a checkpoint of `workdir`, with its own configuration; the command line may change how it evaluates."""
    if workdir is None:
        raise UserError("--mode=eval needs --workdir=FOLDER, the folder of a run, or --checkpoints=FOLDER,FOLDER")
    config = given_config()
    if config is None:
        with bucket.opened(workdir) as here:
            config = recorded_config(here)
    from cnn_jax.core import compilation_cache
    from cnn_jax.training import evaluate_run

    compilation_cache.enable()
    with session():
        evaluate_run.evaluate_run(config, workdir, _CHECKPOINT.value or "latest")


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
    from cnn_jax.core import compilation_cache
    from cnn_jax.training import evaluate_run

    compilation_cache.enable()
    with session():
        evaluate_run.evaluate_ensemble(members, Path(workdir) if workdir else None)


def recorded_config(workdir: Path) -> Any:
    """Returns the configuration of the run in `workdir` with the changes of the command line."""
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds no run: there is no {workdir / 'config.json'}")
    try:
        return changed(recipes.load("replay", str(workdir / "config.json")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise explain(error) from None


def cli() -> None:
    """Entry point."""
    launch(start)


if __name__ == "__main__":
    cli()
