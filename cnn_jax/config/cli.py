"""What all commands share: how words become flags, how a mistake becomes one message, and how a command ends.

A command is a module of three functions, so that any number of commands can run in one process:

    define(flags)         defines its flags on the `Flags` of one command line
    run(flags, words)     does what they say; returns None or an exit code
    main(argv=None)       return cli.call(define, run, argv, usage="cnn_jax NAME ...")

Nothing here imports jax, so that --help answers at once.
"""

import _thread
import atexit
import contextlib
import faulthandler
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from absl.flags import DEFINE_bool, DEFINE_string, Error, Flag, FlagValues, UnrecognizedFlagError

from cnn_jax.config.configuration import Configuration
from cnn_jax.core import files, large_arrays
from cnn_jax.core.errors import Stopped, StorageError, UserError, check, near
from cnn_jax.core.text import printable

# What names a trained network; see `cnn_jax.pretrained.source`.
SOURCES = (
    "FOLDER of a run (also gs://, s3://), FOLDER@best, FOLDER@STEP, bundled:NAME, FILE.safetensors or FILE.pth of ours "
    "or others, hub:OWNER/NAME"
)
OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


class Flags(FlagValues):
    """The flags of one command line.

    arguments: its words. began: when the command began, of `time.perf_counter`.
    overrides: FIELD=VALUE of every --config.FIELD=VALUE. groups: heading -> the flags defined under it.
    """

    arguments: list[str]
    began: float
    overrides: list[str]
    groups: dict[str, list[Flag]]

    def __init__(self, arguments: Sequence[str] = ()):
        super().__init__()
        own = dict(arguments=list(arguments), began=time.perf_counter(), overrides=[], groups={}, heading="Options")
        self.__dict__.update(own)  # attributes of FlagValues are flags
        self.set_gnu_getopt(True)  # words may stand between flags

    @contextlib.contextmanager
    def under(self, heading: str) -> Iterator[None]:
        """Puts the flags that are defined inside under a heading of --help."""
        before, self.__dict__["heading"] = self.__dict__["heading"], heading
        yield
        self.__dict__["heading"] = before

    def __getitem__(self, name: str) -> Any:  # a Flag: its value has any type
        return super().__getitem__(name)

    def __setitem__(self, name: str, flag: Flag) -> None:
        assert not hasattr(type(self), name), f"{name} is a method of Flags"
        super().__setitem__(name, flag)
        if name == flag.name:  # and not its short name
            self.groups.setdefault(self.__dict__["heading"], []).append(flag)

    def parse(self) -> list[str]:
        """Parses the command line and returns its words that are not flags.

        Raises:
          UserError: no such flag, with the near match, or an impossible value.
        """
        try:
            words = self.read_flags_from_files(self.arguments, force_gnu=False)  # of --flagfile
            words = self(["", *(self._without_overrides(words) if "config" in self else words)])[1:]
        except UnrecognizedFlagError as error:
            if error.flagname.partition(".")[0] == "config":
                raise UserError("this command takes no --config: it goes with training") from None
            named = [f"--{name}" for name in self]
            raise UserError(f"there is no flag --{error.flagname}{near(f'--{error.flagname}', named)}") from None
        except (Error, ValueError, OSError) as error:
            raise UserError(str(error)) from None
        for flag in map(self.__getitem__, self):
            if isinstance(flag.value, (str, list)):
                flag.value = _expanded(flag.value)
        return _expanded(words)

    def _without_overrides(self, words: list[str]) -> list[str]:
        """Returns `words` but for --config.FIELD=VALUE, whose names absl cannot know, and which it collects.

        --config.FIELD VALUE is the same, --config.FIELD alone is true and --noconfig.FIELD false.
        """
        rest = []
        while words:
            word = words.pop(0)
            match = OVERRIDE.fullmatch(word)
            if match is None:
                rest.append(word)
                continue
            no, field, value = match.groups()
            if value is None and not no and words and not words[0].startswith("--"):
                value = words.pop(0)
            value = ("false" if no else "true") if value is None else _expanded(value)
            self.overrides.append(f"{field}={value}")
        return rest


def _expanded(value: Any) -> Any:
    """Returns a word, or a list of them, with ~ at its beginning as the home folder: a shell expands few of them."""
    if isinstance(value, list):
        return [_expanded(word) for word in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def call(
    define: Callable[[Flags], None],
    run: Callable[[Flags, list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    usage: str,
    prints_config: bool = True,
) -> int:
    """Runs a command and returns its exit code; see `cnn_jax.core.errors` for what the codes mean.

    Args:
      argv: the words behind the command's name; by default those of this process.
      usage: the first line of --help, which continues with the docstring of the command's module.
      prints_config: whether --print_config is done here; `run` does it where it completes the configuration.
    """
    if argv is None:
        large_arrays.restart_with()
    with _streams(), _interrupts():
        try:
            return _run(define, run, Flags(sys.argv[1:] if argv is None else argv), usage, prints_config)
        except UserError as error:
            print(printable(str(error) if isinstance(error, Stopped) else f"error: {error}"), file=sys.stderr)
            return error.exit_code
        except BrokenPipeError:  # `| head` has seen enough
            _silence(sys.stdout)
            return 141  # of a program that SIGPIPE ends
        except BaseException as error:
            if not _is_interrupt(error):
                raise
            return _interrupted()


def _run(
    define: Callable[[Flags], None],
    run: Callable[[Flags, list[str]], int | None],
    flags: Flags,
    usage: str,
    prints_config: bool,
) -> int:
    DEFINE_bool("help", False, "Print this.", short_name="h", flag_values=flags)
    with _quiet_libraries():
        define(flags)
        words = flags.parse()
        code = None
        try:
            if flags.help:
                _print_help(flags, usage, define)
            elif prints_config and "print_config" in flags and flags.print_config and (found := given(flags)):
                print(found.text())
            else:
                code = run(flags, words)
        except (RuntimeError, AssertionError) as error:
            _raise_for_platform(error)
            raise
        sys.stdout.flush()
        return code or 0


def _raise_for_platform(error: Exception) -> None:
    """Raises UserError if jax found no device: what it raises is not a class of its own, and may have no message."""
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename.endswith("xla_bridge.py"):
        wanted = os.environ.get("JAX_PLATFORMS")
        reason = (str(error) or "its library is not installed").splitlines()[0]
        raise UserError(
            f"jax cannot compute with JAX_PLATFORMS={wanted!r}: {reason}. Unset it, or install jax for that platform "
            "(such as cnn-jax[cuda])"
            if wanted
            else f"jax finds no device: {reason}. JAX_PLATFORMS=cpu computes on the processor"
        ) from None


# ---------------------------------------------------------------- interrupts


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt once more where something swallows it, as jax's callback of the garbage collector."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return before(unraisable)
        again = threading.Timer(0.02, _interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_main() -> None:
    """Interrupts the main thread, also while it waits in a call of the system."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _is_interrupt(error: BaseException | None) -> bool:
    """Returns whether an error is a KeyboardInterrupt, or what an import made of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _interrupted() -> int:
    print("\ninterrupted", file=sys.stderr)
    sys.stdout.flush()
    if "jax" in sys.modules:
        # Nothing stops or awaits a thread in which XLA compiles, and Python's own end crashes under it (a
        # segmentation fault in 4 of 12 interrupted benchmarks): the process ends before that.
        atexit.register(os._exit, 130)
    return 130


# ---------------------------------------------------------------- standard output


class _Output:
    """A stream that raises StorageError where what is printed cannot be written, as on a full disk."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._refusals():
            return self._stream.write(text)
        raise AssertionError  # for the type checker

    def flush(self) -> None:
        with self._refusals():
            self._stream.flush()

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            _silence(self._stream)
            raise StorageError(f"standard output cannot be written: {error.strerror}") from None


def _silence(stream: Any) -> None:
    """Sends what is still to be flushed nowhere: Python would raise again at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Opens standard streams that are closed, and lets names that a terminal cannot show be printed as escapes."""
    _open_closed_streams()
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    errors = [stream.errors for stream in streams]
    for stream in streams:
        if stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    stdout, output = sys.stdout, _Output(sys.stdout)
    sys.stdout = output  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if sys.stdout is output:
            sys.stdout = stdout
        for stream, policy in zip(streams, errors, strict=True):
            with contextlib.suppress(ValueError):  # it is closed
                stream.reconfigure(errors=policy)


def _open_closed_streams() -> None:
    """Opens the null device instead of a closed standard stream: the next file would take its number."""
    closed = sys.stdout is None, sys.stderr is None
    if not any(closed):
        return
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    if closed[1]:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if closed[0]:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        print("standard output is closed: what is printed goes nowhere", file=sys.stderr)


def _print_help(flags: Flags, usage: str, define: Callable[[Flags], None]) -> None:
    from cnn_jax.config.help import render

    configuration = given(flags) if "config" in flags else None
    print(render(usage, sys.modules[define.__module__].__doc__ or "", flags.groups, configuration))


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silences the log of absl, in which orbax and TFDS write: what matters of it arrives as exceptions."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a crash outside of Python leaves a traceback
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


# ---------------------------------------------------------------- flags that several commands have


def define_config(flags: Flags) -> None:
    """Defines --config, --from and --print_config; `needed` and `given` return what they name."""
    with flags.under("Configuration"):
        DEFINE_string(
            "config",
            None,
            "RECIPE[:DATASET]: a recipe by name, such as resnet50:cifar10, or its file. --config.FIELD=VALUE changes "
            "a field; with --config=RECIPE, --help lists all fields.",
            flag_values=flags,
            allow_overwrite=False,
        )
        DEFINE_string("from", None, "RUN: the configuration of this run's folder, again.", flag_values=flags)
        DEFINE_bool("print_config", False, "Print the whole configuration and stop.", flag_values=flags)


def given(flags: Flags) -> Configuration | None:
    """Returns the configuration that --config or --from names, with the changes of the command line, or None."""
    recipe, recorded = flags.config, flags["from"].value
    check(recipe is None or recorded is None, "--config and --from both name a configuration: give one of them")
    if recipe is not None:
        return Configuration.from_recipe(recipe, flags.overrides)
    return Configuration.from_run(recorded, flags.overrides) if recorded is not None else None


def needed(flags: Flags) -> Configuration:
    """Returns the configuration that --config or --from names; raises UserError if there is none."""
    configuration = given(flags)
    if configuration is None:
        raise UserError("give --config=RECIPE, such as --config=resnet50; `cnn_jax train --list` shows all")
    return configuration


def check_no_words(words: Sequence[str]) -> None:
    """Raises UserError if a command that takes flags only has other words."""
    check(not words, f"unexpected argument {' '.join(words)!r}: every option starts with --")


def check_output(path: Path, flag: str, suffix: str = "") -> None:
    """Raises UserError, before anything is computed, if a file cannot be written there or should end otherwise."""
    check(not suffix or path.suffix == suffix, f"{flag} is {str(path)!r}, but must be a file that ends in {suffix}")
    files.check_output(path, flag)
