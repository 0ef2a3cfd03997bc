"""Trains or evaluates a network.

python -m cnn_jax.main --config=configs/resnet50.py
python -m cnn_jax.main --config=configs/resnet20.py:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
python -m cnn_jax.main --mode=eval --workdir=runs/mine --checkpoint=best
"""

import sys
import time
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax.errors import UserError, near
from configs import replay

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
        _check_config_file(argv)
        return flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help
    except UserError as error:
        sys.exit(fail(error))
    except (KeyError, AttributeError) as error:  # a field that the configuration does not have
        message = str(error.args[0]).replace("\n", "; ")
        sys.exit(fail(UserError(f"the configuration has no field {message}")))
    except (flags.Error, OSError, TypeError, ValueError) as error:
        message = str(error)
        if "\nTraceback" in message and "ValueError: " in message:  # raised by the configuration file on purpose
            message = message.rsplit("ValueError: ", 1)[1]
        sys.exit(fail(UserError(message.strip())))


def _check_config_file(argv: list[str]) -> None:
    """Raises UserError if the file of --config is not there, with those that are."""
    for argument in argv:
        if argument.startswith("--config="):
            path = Path(argument.removeprefix("--config=").split(":")[0])
            if not path.is_file():
                known = sorted(str(other) for other in path.parent.glob("*.py"))
                raise UserError(f"--config: there is no file {str(path)!r}{near(str(path), known)}")


def fail(error: UserError) -> int:
    """Prints the message and returns the exit code of a user's mistake."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def main(argv: list[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # jax, orbax and tensorflow-datasets say much that is no news
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
        evaluate(workdir)
        return
    config = _CONFIG.value
    if config is None:
        raise UserError("give --config=FILE, such as --config=configs/resnet50.py")
    from cnn_jax import train

    default = Path("runs") / f"{config.model.get('name')}-{config.data.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    train.run(config, workdir or default, dry_run=bool(flags.FLAGS["dry-run"].value))


def evaluate(workdir: Path | None) -> None:
    """Evaluates a checkpoint of `workdir`, with its own configuration unless --config is given."""
    if workdir is None:
        raise UserError("--mode=eval needs --workdir=FOLDER, the folder of a run")
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds no run: there is no {workdir / 'config.json'}")
    config = _CONFIG.value or replay.get_config(str(workdir / "config.json"))
    from cnn_jax import train

    train.evaluate_run(config, workdir, _CHECKPOINT.value)


def cli() -> None:
    """Entry point."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
