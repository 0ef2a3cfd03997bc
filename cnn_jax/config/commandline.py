"""What the commands share: --config, mistakes as one message each, and how a command ends."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax.core.errors import Stopped, UserError, check, near

# Nothing here imports jax, so that --help answers at once.

BEGAN = time.perf_counter()  # about when the command began

# What names a trained network; see `cnn_jax.pretrained.source`.
SOURCES = (
    "FOLDER of a run (also gs://, s3://), FOLDER@best, FOLDER@STEP, bundled:NAME, FILE.safetensors or FILE.pth of ours "
    "or others, hub:OWNER/NAME"
)

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with :DATASET for another than the bundled digits.", lock_config=True
)


def given_config() -> Any:
    """Returns the configuration of --config with its overrides, locked, or None."""
    return _CONFIG.value


CHANGE = re.compile(r"--?config\.[^=]+(=.*)?", re.DOTALL)
_without_file: list[str] = []  # FIELD=VALUE of every --config.FIELD=VALUE on a command line without --config


def changed(recorded: Any) -> Any:
    """Returns a recorded configuration with the --config.FIELD=VALUE of a command line that names no --config.

    Raises:
      UserError: no such field, or a value of another type.
    """
    return with_changes(recorded, _without_file, where="--config") if _without_file else recorded


def needed_config() -> Any:
    """Returns the configuration of --config; raises UserError if there is none."""
    if _CONFIG.value is None:
        raise UserError("give --config=FILE, such as --config=configs/resnet50.py")
    return _CONFIG.value


def given_changes() -> list[str]:
    """Returns what the command line changes in the configuration of --config, as FIELD=VALUE."""
    return [f"{field}={value}" for field, value in config_flags.get_override_values(flags.FLAGS["config"]).items()]


def other_config(config: Any, text: str, *, flag: str) -> tuple[Any, list[str]]:
    """Returns the configuration of "[FILE[:DATASET]] [FIELD=VALUE ...]", and its changes to the file.

    Without FILE the fields of a copy of `config`, that of --config, change. Values are read as those of
    --config.FIELD=VALUE.

    Raises:
      UserError: no such file or field, a value of another type. `flag` names the flag in the message.
    """
    try:
        words = [word.removeprefix("--config.") for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"{flag}={text!r}: {error}") from None  # a quote that does not end
    file = words.pop(0) if words and "=" not in words[0] else None
    for word in words if file or words else [text]:
        check("=" in word, f"{flag}={text!r}: {word!r} is no FIELD=VALUE, such as model.head=gap")
    if file:
        check_config_file(file, flag=flag)
    changed = with_changes(config, words, file=file, where=f"{flag}={text!r}")
    return changed, words if file else given_changes() + words


def with_changes(config: Any, changes: Sequence[str], *, file: str | None = None, where: str) -> Any:
    """Returns the configuration of `file`, or a copy of `config`, with FIELD=VALUE changes, locked.

    Raises:
      UserError: no such field, or a value of another type; the message begins with `where`.
    """
    values = flags.FlagValues()
    words = [f"--config.{change.removeprefix('config.')}" for change in changes]
    argv = ["", *([f"--config={file}"] if file else []), *words]
    options: Any = dict(flag_values=values, lock_config=True, sys_argv=argv)
    try:
        if file:
            config_flags.DEFINE_config_file("config", None, **options)
        else:
            config_flags.DEFINE_config_dict("config", config.copy_and_resolve_references(), **options)
        values(argv)
    except (flags.Error, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {explain(error)}") from None
    return values["config"].value


def launch(start: Callable[..., int | None], *, operands: bool = False) -> None:
    """Parses the flags, calls `start` and exits: with 0, with the code of an error, with 130 after Ctrl-C.

    Args:
      operands: the command takes words that are no options, before, between or after them; `start` gets their list.
    """
    flags.FLAGS.set_gnu_getopt(operands)

    def main(argv: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # what matters of jax and orbax arrives as exceptions
        try:
            if len(argv) > 1 and not operands:
                raise UserError(f"unexpected argument {argv[1]!r}: every option starts with --")
            code = start(argv[1:]) if operands else start()
            sys.stdout.flush()
            return code
        except UserError as error:
            return fail(error)
        except BrokenPipeError:
            os._exit(141)  # `| head` has seen enough: the code of a program that SIGPIPE ends
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(130)  # files are closed by now; to tear jax down under steps that still run can crash

    app.run(main, flags_parser=parse_flags)


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar with the time left, in a terminal; gives what advances it, which any thread may call."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda records: bar.advance(task, records)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; prints one message and exits with code 2 where it is wrong."""
    try:
        _check_given_file(argv)
        if not any(argument.lstrip("-").partition("=")[0] == "config" for argument in argv):
            words, argv = argv, []
            while words:
                word, *words = words
                if CHANGE.fullmatch(word) and "=" not in word and words:  # --config.FIELD VALUE
                    word, words = f"{word}={words[0]}", words[1:]
                if CHANGE.fullmatch(word):
                    _without_file.append(word.lstrip("-"))
                else:
                    argv.append(word)
        return flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help
    except UserError as error:
        sys.exit(fail(error))
    except BrokenPipeError:
        os._exit(141)  # of --help, as in `launch`
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


def _check_given_file(argv: list[str]) -> None:
    given = [argument for argument in argv if argument.lstrip("-").partition("=")[0] == "config"]
    check(len(given) < 2, f"--config is given {len(given)} times, but names one file: {', '.join(given)}")
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in ("--config", "-config") or argument.lstrip("-").startswith("config="):
            check_config_file(argument.partition("=")[2] or following, flag="--config")


def check_config_file(value: str, *, flag: str) -> None:
    """Raises UserError if the FILE of FILE[:DATASET] is not there, with the nearest that is."""
    path = Path(value.split(":")[0])
    if path.is_file() and path.suffix != ".py":
        raise UserError(f"{flag}: {str(path)!r} is no configuration file: those end in .py")
    if not path.is_file():
        known = sorted(str(other) for other in path.parent.glob("*.py"))
        raise UserError(f"{flag}: there is no file {str(path)!r}{near(str(path), known)}")


def fail(error: UserError) -> int:
    """Prints the message and returns the exit code; see `cnn_jax.core.errors`."""
    print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr)
    return error.exit_code
