"""What the commands that train and evaluate share: their flags, and the calls that they come to."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl.flags import DEFINE_bool, DEFINE_integer, DEFINE_list, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import UserError, check, check_folder

if TYPE_CHECKING:
    from rich.console import Console

# Nothing here imports jax before it is needed, so that --help answers at once.

# Where and how a run resumes, not what it computes: a trailing ! takes no value.
OF_THIS_START = (
    *("workdir", "extend!", "profile"),
    *("coordinator", "processes", "process", "start-timeout", "heartbeat-timeout"),
)


def define(flags: cli.Flags) -> None:
    """Defines the flags of training."""
    cli.define_config(flags)
    with flags.under("The run"):
        define_workdir(flags, "FOLDER: the run's results; a run that is there resumes. Default: a new one in runs/.")
        DEFINE_bool("dry-run", False, "Print what would run and stop.", flag_values=flags)
        DEFINE_bool(
            "extend", False, "Allow a longer --config.duration than that of the run in --workdir.", flag_values=flags
        )
        DEFINE_string(
            "profile", None, "START:END: trace these steps, both included, into WORKDIR/profile.", flag_values=flags
        )
    define_processes(flags)


def define_workdir(flags: cli.Flags, meaning: str) -> None:
    """Defines --workdir, which `workdir` returns."""
    DEFINE_string("workdir", None, meaning, flag_values=flags)


def define_processes(flags: cli.Flags) -> None:
    """Defines where the other processes are, for `session`."""
    with flags.under("Several processes (SLURM, TPU pods and Open MPI need no flags)"):
        DEFINE_string("coordinator", None, "HOST:PORT: of process 0, the same for all processes.", flag_values=flags)
        DEFINE_integer("processes", None, "Number of processes.", flag_values=flags)
        DEFINE_integer("process", None, "Number of this process, from 0.", flag_values=flags)
        DEFINE_integer(
            "start-timeout", 300, "Seconds to wait for the other processes at the start.", 1, flag_values=flags
        )
        DEFINE_integer(
            "heartbeat-timeout", 60, "Seconds of silence until a process counts as lost.", 1, flag_values=flags
        )


def define_evaluation(flags: cli.Flags) -> None:
    """Defines which checkpoints are evaluated."""
    DEFINE_string("checkpoint", None, "WHICH: latest (the default), best, or a step.", flag_values=flags)
    DEFINE_list(
        "checkpoints",
        [],
        "RUN,RUN,...: folders of runs whose class probabilities are averaged, each with @best or @STEP.",
        flag_values=flags,
    )


def workdir(flags: cli.Flags) -> Path | str | None:
    """Returns --workdir, a path or a URL; see `storage.located`."""
    from cnn_jax.checkpoint import storage

    return storage.located("--workdir", flags.workdir) if flags.workdir else None


def session(flags: cli.Flags) -> contextlib.AbstractContextManager[None]:
    """Returns the session with the other processes, and caches compiled programs; see `distributed.session`."""
    from cnn_jax.core import compilation_cache
    from cnn_jax.parallel import distributed

    compilation_cache.enable()
    return distributed.session(
        flags.coordinator,
        flags.processes,
        flags.process,
        start_timeout=flags["start-timeout"].value,
        heartbeat_timeout=flags["heartbeat-timeout"].value,
    )


# ---------------------------------------------------------------- train


def train(flags: cli.Flags) -> None:
    """Trains as --config or --from says."""
    workdir(flags)  # a mistake in it comes before the configuration's
    config = cli.needed(flags).config
    with session(flags):
        _train(flags, config, name=str(config.model.get("name")), arguments=flags.arguments)


def _train(
    flags: cli.Flags, config: Any, *, name: str, arguments: Sequence[str], console: "Console | None" = None
) -> None:
    """Trains inside of `session`; `name` begins that of the folder where --workdir names none."""
    from cnn_jax.parallel import together
    from cnn_jax.tracking import provenance
    from cnn_jax.training import clock, loop

    profile = clock.steps_to_trace(flags.profile) if flags.profile is not None else None
    default = Path("runs") / f"{name}-{config.data.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    loop.run(
        config,
        workdir(flags) or Path(together.decided(lambda: str(default))),
        dry_run=flags["dry-run"].value,
        extend=flags.extend,
        profile=profile,
        console=console,
        began=flags.began,
        # What is left is the command that repeats the run in a new folder.
        arguments=provenance.without(arguments, *OF_THIS_START),
    )


# ---------------------------------------------------------------- fine-tune


def define_finetuning(flags: cli.Flags) -> None:
    """Defines what a trained network is trained on."""
    with flags.under("Fine-tuning"):
        DEFINE_string("data", None, "DATASET: as behind the colon of --config. Default: digits.", flag_values=flags)
        DEFINE_string(
            "regime",
            None,
            "WHAT: what is trained: full, head, partial:K (the last K stages and the head), or a regex over parameter "
            "names. Default: full.",
            flag_values=flags,
        )
        DEFINE_string("checkpoint", None, f"SOURCE: the trained network: {cli.SOURCES}.", flag_values=flags)


def finetune(flags: cli.Flags, words: Sequence[str]) -> None:
    """Trains a network that starts from the trained one that `words` or --checkpoint name."""
    named = [*words, *([flags.checkpoint] if flags.checkpoint else [])]
    configuration = cli.given(flags)
    if configuration is not None:
        for flag in ("data", "regime"):
            check(flags[flag].value is None, f"--{flag} goes without --config and --from, which say it already")
        named += [configuration.config.init_from] if configuration.config.init_from else []
    check(len(named) == 1, "name the trained network to start from, once: cnn_jax finetune SOURCE")
    if configuration is None:
        check_early(flags)
    from cnn_jax.config import finetuning
    from cnn_jax.display import show
    from cnn_jax.parallel import together
    from cnn_jax.pretrained import source as pretrained
    from cnn_jax.training import transfer

    with session(flags):
        console = together.console()
        with show.waiting(console, "reading the trained network"):
            source = pretrained.open_source(named[0])
            first = together.decided(lambda: source.name)
            if first != source.name:  # its run goes on
                source = pretrained.open_source(first)
        if configuration is None:
            recipe = finetuning.get_config(source.model["name"], flags.data or "digits", flags.regime or "full")
            configuration = Configuration(recipe).with_overrides(flags.overrides)
        config = configuration.config
        adapted = transfer.adapt(config, source, configuration.overridden)
        if flags.print_config:
            print(configuration.text())
            return
        for field, value in adapted.items():
            show.say(console, f"config.{field} = {value!r}")
        arguments = [f"--checkpoint={word}" if [word] == list(words) else word for word in flags.arguments]
        _train(flags, config, name=f"finetune-{config.model.name}", arguments=arguments, console=console)


def check_early(flags: cli.Flags) -> None:
    """Raises UserError for a mistake in the flags that needs no trained network to be seen."""
    from cnn_jax.config import fields

    try:
        defaults = Configuration(fields.get_config(flags.data or "digits"))
    except ValueError as error:
        raise UserError(f"--data: {error}") from None
    defaults.with_overrides([word for word in flags.overrides if not word.startswith("model.")])


# ---------------------------------------------------------------- evaluate


def evaluate(flags: cli.Flags, words: Sequence[str] = ()) -> None:
    """Evaluates a checkpoint of a run, or the average of several runs: `words`, or --workdir and --checkpoints."""
    folder = workdir(flags)
    runs = [*words, *flags.checkpoints]
    for run in runs:
        check_folder("--checkpoints" if run in flags.checkpoints else "the run", run)
    if len(words) == 1 and not flags.checkpoints:
        check(folder is None and not flags.checkpoint, "name the run once: cnn_jax evaluate RUN[@best]")
        evaluate_run(flags, *split_run(words[0]))
    elif runs:
        evaluate_ensemble(flags, runs, folder)
    else:
        check(folder is not None, "name the run to evaluate: cnn_jax evaluate RUN, or --workdir=RUN --checkpoint=best")
        evaluate_run(flags, folder, flags.checkpoint or "latest")


def evaluate_run(flags: cli.Flags, folder: Any, which: str) -> None:
    """Evaluates a checkpoint with the run's own configuration; the command line may change how it evaluates."""
    from cnn_jax.checkpoint import storage

    configuration = cli.given(flags)
    if configuration is None:
        with storage.opened(folder) as opened:
            configuration = recorded_run(flags, opened.path)
    if flags.print_config:
        print(configuration.text())
        return
    from cnn_jax.training import loop

    with session(flags):
        loop.evaluate_run(configuration.config, folder, which)


def evaluate_ensemble(flags: cli.Flags, runs: Sequence[str], folder: Path | str | None) -> None:
    """Evaluates runs and the average of their class probabilities; `folder` receives the numbers, if it is given."""
    if flags.checkpoint or cli.given(flags):
        raise UserError(
            "--checkpoints evaluates runs with their own configurations, each at FOLDER@latest, @best or @STEP: leave "
            "out --config and --checkpoint (--config.eval.protocol=flip alone changes how all are evaluated)"
        )
    if folder is not None:
        check_folder("--workdir", str(folder))
    members = [(recorded_run(flags, path).config, path, which) for path, which in map(split_run, runs)]
    from cnn_jax.training import ensemble

    with session(flags):
        ensemble.evaluate(members, Path(folder) if folder else None)


def split_run(word: str) -> tuple[Path, str]:
    """Returns (folder, "latest", "best" or a step) of FOLDER, FOLDER@best or FOLDER@STEP."""
    folder, _, which = word.rpartition("@")
    if which in ("latest", "best") or which.isdecimal():
        return Path(folder), which
    return Path(word), "latest"  # a folder alone, whose name may have an @


def recorded_run(flags: cli.Flags, folder: Path) -> Configuration:
    """Returns the configuration of the run in `folder` with the changes of the command line."""
    check((folder / "config.json").exists(), f"{folder} holds no run: there is no {folder / 'config.json'}")
    return Configuration.from_run(str(folder), flags.overrides)
