"""Trains or evaluates a network.

    python -m cnn_jax.main --config=configs/resnet50.py
    python -m cnn_jax.main --config=configs/resnet20.py:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
    python -m cnn_jax.main --mode=eval --workdir=runs/mine --checkpoint=best
"""

import importlib.util
import sys
import time
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax.errors import UserError

# jax is imported by main(), so that --help answers at once.

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with :DATASET for another than the bundled digits.", lock_config=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint of --workdir.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "With --mode=eval: latest, best, or a step.")
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; prints one message and exits with code 2 where it is wrong."""
    try:
        return app.parse_flags_with_usage(argv)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, ImportError) as error:
        sys.exit(fail(UserError(f"--config: {error}")))


def fail(error: UserError) -> int:
    """Prints the message and returns the exit code of a user's mistake."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def main(argv: list[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # jax and orbax tell much at the level of information
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: every option starts with --")
        return start()
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted: the same --workdir goes on from its latest checkpoint", file=sys.stderr)
        return 130


def start() -> None:
    """Runs what the flags say."""
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    if _MODE.value == "eval":
        if workdir is None:
            raise UserError("--mode=eval needs --workdir=FOLDER, the folder of a run")
        if _CONFIG.value is None:
            recorded = workdir / "config.json"
            if not recorded.exists():
                raise UserError(f"{workdir} holds no run: there is no {recorded}")
            replay = importlib.util.find_spec("configs.replay").origin
            flags.FLAGS["config"].parse(f"{replay}:{recorded}")
    config = flags.FLAGS["config"].value
    if config is None:
        raise UserError("give --config=FILE, such as --config=configs/resnet50.py")

    from cnn_jax import train

    if _MODE.value == "eval":
        train.evaluate_run(config, workdir, _CHECKPOINT.value)
    else:
        default = Path("runs") / f"{config.model.get('name')}-{config.data.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        train.run(config, workdir or default, dry_run=flags.FLAGS["dry-run"].value)


def cli() -> None:
    """Entry point."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
