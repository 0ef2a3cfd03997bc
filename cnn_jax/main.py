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

from cnn_jax.errors import Stopped, UserError, near
from configs import replay

# jax is imported by main(), so that --help answers at once.

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with :DATASET for another than the bundled digits.", lock_config=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint of --workdir.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --mode=eval: latest (the default), best, or a step.")
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")
_EXTEND = flags.DEFINE_bool("extend", False, "Allow a longer --config.duration than that of the run in --workdir.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; prints one message and exits with code 2 where it is wrong."""
    try:
        _check_config_file(argv)
        return flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help
    except UserError as error:
        sys.exit(fail(error))
    except (flags.Error, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        sys.exit(fail(explain(error)))


def explain(error: Exception) -> UserError:
    """Returns what a user can make use of in an error of a configuration file or of a flag."""
    message = str(error)
    if isinstance(error, (KeyError, AttributeError)):  # a field that the configuration does not have
        missing, *hint = message.replace("\\n", "\n").replace("\\'", "'").strip("'\"").split("\n")
        return UserError("; ".join([f"the configuration has no field {missing.strip(chr(39))!r}", *hint]))
    if "\nTraceback" in message or "  Traceback" in message:
        for kind in ("ValueError: ", "KeyError: "):  # raised by the configuration file on purpose
            if kind in message:
                return UserError(message.rsplit(kind, 1)[1].strip())
    return UserError(message.strip())


def _check_config_file(argv: list[str]) -> None:
    """Raises UserError if the file of --config is not there, with the nearest that is."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in ("--config", "-config") or argument.lstrip("-").startswith("config="):
            value = argument.partition("=")[2] or following
            path = Path(value.split(":")[0])
            if path.is_file() and path.suffix != ".py":
                raise UserError(f"--config: {str(path)!r} is no configuration file: those end in .py")
            if not path.is_file():
                known = sorted(str(other) for other in path.parent.glob("*.py"))
                raise UserError(f"--config: there is no file {str(path)!r}{near(str(path), known)}")


def fail(error: UserError) -> int:
    """Prints the message and returns the exit code; see `cnn_jax.errors`."""
    print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(argv: list[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # what matters of jax, orbax and tensorflow-datasets arrives as exceptions
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: every option starts with --")
        return start()
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


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
    config = _CONFIG.value
    if config is None:
        raise UserError("give --config=FILE, such as --config=configs/resnet50.py")
    from cnn_jax import compilation_cache, train

    compilation_cache.enable()
    default = Path("runs") / f"{config.model.get('name')}-{config.data.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    train.run(config, workdir or default, dry_run=dry_run, extend=_EXTEND.value)


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
    config = _CONFIG.value or recorded
    from cnn_jax import compilation_cache, train

    compilation_cache.enable()
    train.evaluate_run(config, workdir, _CHECKPOINT.value or "latest")


def cli() -> None:
    """Entry point."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
