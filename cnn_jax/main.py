"""Trains or evaluates a network.

python -m cnn_jax.main --config=configs/resnet50.py
python -m cnn_jax.main --config=configs/resnet20.py:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
python -m cnn_jax.main --mode=eval --workdir=runs/mine --checkpoint=best
"""

import sys
import time
from pathlib import Path

from absl import flags

from cnn_jax import commandline
from cnn_jax.commandline import explain, given_config, launch, needed_config
from cnn_jax.errors import UserError
from configs import replay

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint of --workdir.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --mode=eval: latest (the default), best, or a step.")
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")
_EXTEND = flags.DEFINE_bool("extend", False, "Allow a longer --config.duration than that of the run in --workdir.")


def start() -> None:
    """Runs what the flags say."""
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    dry_run = bool(flags.FLAGS["dry-run"].value)
    if _MODE.value == "eval":
        for flag in ("dry-run", "extend"):
            if flags.FLAGS[flag].value:
                raise UserError(f"--{flag} goes with training, not with --mode=eval")
        evaluate(workdir)
        return
    if _CHECKPOINT.value:
        raise UserError("--checkpoint goes with --mode=eval: training goes on from the latest one of --workdir")
    config = needed_config()
    from cnn_jax import compilation_cache, provenance, train

    compilation_cache.enable()
    data_set = config.data.name.replace("/", "-")
    default = Path("runs") / f"{config.model.get('name')}-{data_set}-{time.strftime('%Y%m%d-%H%M%S')}"
    # What is left is the command that repeats the run in a new folder.
    arguments = provenance.without(sys.argv[1:], "workdir", "extend!")
    train.run(
        config,
        workdir or default,
        dry_run=dry_run,
        extend=_EXTEND.value,
        began=commandline.BEGAN,
        arguments=arguments,
    )


def evaluate(workdir: Path | None) -> None:
    """Evaluates a checkpoint of `workdir`, with its own configuration; --config may change only how it evaluates."""
    if workdir is None:
        raise UserError("--mode=eval needs --workdir=FOLDER, the folder of a run")
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds no run: there is no {workdir / 'config.json'}")
    try:
        recorded = replay.get_config(str(workdir / "config.json"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise explain(error) from None
    config = given_config() or recorded
    from cnn_jax import compilation_cache, train

    compilation_cache.enable()
    train.evaluate_run(config, workdir, _CHECKPOINT.value or "latest")


def cli() -> None:
    """Entry point."""
    launch(start)


if __name__ == "__main__":
    cli()
