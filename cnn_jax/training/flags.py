"""What the commands that train and evaluate share: their flags, and the calls that they come to."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl.flags import DEFINE_bool, DEFINE_integer, DEFINE_list, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.config.configuration import Configuration
from cnn_jax.core import files
from cnn_jax.core.errors import UserError, check, check_folder
from cnn_jax.parallel import processes
from cnn_jax.training.preemption import StopSignals

if TYPE_CHECKING:
    from rich.console import Console

    from cnn_jax.pretrained.source import Pretrained

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
        DEFINE_string(
            "plot", None, "FILE.png: with --dry-run, draw the learning rate of the whole run.", flag_values=flags
        )
        DEFINE_bool(
            "extend",
            False,
            "Allow a longer --config.duration, or another --config.eval.patience, than that of the run in --workdir.",
            flag_values=flags,
        )
        DEFINE_string(
            "find-lr",
            None,
            "FILE.png: train 200 steps with a rising learning rate, draw the loss over it, print which one to try.",
            flag_values=flags,
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
    """Returns --workdir, a path or a URL; see `files.located`."""
    check(flags.workdir != "", "--workdir is empty: name a folder, or leave it out for a new one in runs/")
    return files.located("--workdir", flags.workdir) if flags.workdir else None


@contextlib.contextmanager
def session(flags: cli.Flags) -> Iterator[StopSignals]:
    """Joins the other processes of the run, if there are any, and caches compiled programs.

    Enter it before jax is imported: it yields the signals that stop the run, and before that a signal ends the process.
    """
    several = processes.is_one_of_several(flags.coordinator, flags.processes)
    with (
        StopSignals(several=several) as stop,
        processes.session(
            flags.coordinator,
            flags.processes,
            flags.process,
            start_timeout=flags["start-timeout"].value,
            heartbeat_timeout=flags["heartbeat-timeout"].value,
        ),
    ):
        from cnn_jax.core import compilation_cache

        compilation_cache.enable()
        yield stop


# ---------------------------------------------------------------- train


def train(flags: cli.Flags) -> None:
    """Trains as --config or --from says."""
    with session(flags) as stop:
        workdir(flags)  # a mistake in it comes before the configuration's
        config = cli.needed(flags).config
        if flags["find-lr"].value is not None:
            _find_rate(flags, config)
            return
        _train(flags, config, stop, name=str(config.model.get("name")), arguments=flags.arguments)


def _find_rate(flags: cli.Flags, config: Any) -> None:
    """Draws the loss over a rising learning rate."""
    from cnn_jax.parallel import collectives
    from cnn_jax.training import rate_range

    path = files.expanded(flags["find-lr"].value)
    others = [f"--{name}" for name in ("workdir", "dry-run", "extend", "profile") if flags[name].value]
    check(not others, f"--find-lr writes one picture and no run: leave {', '.join(others)} out")
    cli.check_output(path, "--find-lr", ".png")
    rate_range.find(config, path, collectives.console())


def _train(
    flags: cli.Flags,
    config: Any,
    stop: StopSignals,
    *,
    name: str,
    arguments: Sequence[str],
    source: "Pretrained | None" = None,
    console: "Console | None" = None,
) -> None:
    """Trains inside of `session`; `name` begins that of the folder where --workdir names none."""
    from cnn_jax.parallel import collectives
    from cnn_jax.tracking import run_record
    from cnn_jax.training import loop, profiling
    from cnn_jax.training.session import Options

    data = config.data.name.replace("/", "-").replace(":", "-")
    default = Path("runs") / f"{name}-{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    plot = files.expanded(flags.plot) if flags.plot is not None else None
    if plot is not None:
        check(flags["dry-run"].value, "--plot goes with --dry-run: a run draws curves.png")
        cli.check_output(plot, "--plot", ".png")
    options = Options(
        dry_run=flags["dry-run"].value,
        plot=plot if collectives.is_first() else None,
        extend=flags.extend,
        profile=profiling.steps_to_trace(flags.profile) if flags.profile is not None else None,
        console=console or collectives.console(),
        stop=stop,
        began=flags.began,
        # The command that repeats the run in a new folder.
        arguments=run_record.without(arguments, *OF_THIS_START),
    )
    folder = workdir(flags) or Path(collectives.decided(lambda: str(default)))
    loop.run(config, folder, options, source=source)


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
    """Trains a network that starts from the pretrained one that `words` or --checkpoint name."""
    with session(flags) as stop:
        named = [*words, *([flags.checkpoint] if flags.checkpoint else [])]
        configuration = cli.given(flags)
        if configuration is not None:
            for flag in ("data", "regime"):
                check(flags[flag].value is None, f"--{flag} goes without --config and --from, which say it already")
            named += [configuration.config.init_from] if configuration.config.init_from else []
        check(len(named) == 1, "name the pretrained network to start from, once: cnn_jax finetune SOURCE")
        if configuration is None:
            check_early(flags)
        _finetune(flags, words, named[0], configuration, stop)


def _finetune(
    flags: cli.Flags, words: Sequence[str], named: str, configuration: Configuration | None, stop: StopSignals
) -> None:
    from cnn_jax.config import finetune_recipe
    from cnn_jax.display import terminal
    from cnn_jax.parallel import collectives
    from cnn_jax.pretrained import source as pretrained
    from cnn_jax.training import finetuning

    console = collectives.console()
    with terminal.waiting(console, "reading the pretrained network"):
        source = pretrained.open_source(named)
        first = collectives.decided(lambda: source.name)
        if first != source.name:  # its run is still training
            source = pretrained.open_source(first)
    if configuration is None:
        network, data, regime = source.model["name"], flags.data or "digits", flags.regime or "full"
        configuration = Configuration(finetune_recipe.get_config(network, data, regime)).with_overrides(flags.overrides)
    config = configuration.config
    adapted = finetuning.adapt(config, source, configuration.overridden)
    if flags.print_config:
        print(configuration.text())
        return
    for field, value in adapted.items():
        terminal.say(console, f"config.{field} = {value!r}")
    arguments = [f"--checkpoint={word}" if [word] == list(words) else word for word in flags.arguments]
    name = f"finetune-{config.model.name}"
    _train(flags, config, stop, name=name, arguments=arguments, source=source, console=console)


def check_early(flags: cli.Flags) -> None:
    """Raises UserError for a mistake in the flags that needs no trained network to be seen."""
    from cnn_jax.config import fields

    try:
        defaults = Configuration(fields.get_config(flags.data or "digits"))
    except ValueError as error:
        raise UserError(f"--data: {error}") from None
    defaults.with_overrides([word for word in flags.overrides if not word.startswith("model.")])


# ---------------------------------------------------------------- evaluate


def define_results(flags: cli.Flags) -> None:
    """Defines on which data a network is evaluated, and the files that say more than the table."""
    with flags.under("Other data"):
        DEFINE_string(
            "data",
            None,
            "DATASET: a data set by name, hf:OWNER/NAME of Hugging Face, a folder of class folders, alone or in train, "
            "val and test, or a table (.csv, .tsv, .parquet).",
            flag_values=flags,
        )
        DEFINE_string("part", None, "PART: with --data: test (the default), validation or train.", flag_values=flags)
    with flags.under("Results"):
        DEFINE_string("json", None, "FILE: all numbers, of every class, as JSON.", flag_values=flags)
        DEFINE_string(
            "output",
            None,
            "FOLDER: a page of the worst errors (errors.html), the predictions of every example (predictions.csv), the "
            "confusion matrix (confusion.csv and .png) and the reliability diagram (reliability.png).",
            flag_values=flags,
        )


def evaluate_source(flags: cli.Flags, words: Sequence[str]) -> None:
    """Evaluates the SOURCE that `words` name: a run on its own data, and any network on those of --data."""
    from cnn_jax.pretrained import source as pretrained

    json_file, output = (Path(name) if name else None for name in (flags.json, flags.output))
    if json_file is not None:
        cli.check_output(json_file, "--json")
    if output is not None:
        files.check_output_folder(output, "--output")
    if flags.data is None:
        check(flags.part is None, "--part goes with --data: a run is evaluated on its validation and its test part")
        for word in words:
            check(
                not pretrained.is_file_or_name(word),
                f"{word} is not a run, which has data of its own: name some, --data=DATASET or a folder of pictures",
            )
        evaluate(flags, words, json_file=json_file, output=output)
        return
    check(len(words) == 1, "--data evaluates one network: cnn_jax evaluate SOURCE --data=DATASET")
    check(
        not (flags.workdir or flags.checkpoint or flags.checkpoints or cli.given(flags)),
        "--data goes without --config, --from, --workdir, --checkpoint and --checkpoints: name the network, as in "
        "cnn_jax evaluate runs/mine@best --data=DATASET (--config.FIELD=VALUE changes how it is evaluated)",
    )
    with session(flags):
        _evaluate_on(flags, words[0], json_file=json_file, output=output)


def _evaluate_on(flags: cli.Flags, word: str, *, json_file: Path | None, output: Path | None) -> None:
    from cnn_jax.display import terminal
    from cnn_jax.eval import results, score
    from cnn_jax.parallel import collectives
    from cnn_jax.pretrained import source as pretrained

    console, part = collectives.console(), flags.part or "test"
    with terminal.waiting(console, "reading the network"):
        source = pretrained.open_source(word)
    configuration = score.configuration(source, flags.data, flags.overrides)
    if flags.print_config:
        print(configuration.text())
        return
    with terminal.waiting(console, "evaluating"):
        found = score.predict(source, configuration.config, part)
    terminal.say(console, source.description)
    terminal.say(console, f"on {found[part].data}")
    if source.classes is None:
        terminal.say(console, "the network does not name its classes: they are taken in the order of the data set's")
    results.report(found, part, console, json_file=json_file, folder=output)


def evaluate(
    flags: cli.Flags, words: Sequence[str] = (), *, json_file: Path | None = None, output: Path | None = None
) -> None:
    """Evaluates a checkpoint of a run, or the average of several runs: `words`, or --workdir and --checkpoints.

    Args:
      json_file, output: see `results.report`.
    """
    with session(flags):
        folder = workdir(flags)
        runs = [*words, *flags.checkpoints]
        for run in runs:
            check_folder("--checkpoints" if run in flags.checkpoints else "the run", run)
        if len(words) == 1 and not flags.checkpoints:
            check(folder is None and not flags.checkpoint, "name the run once: cnn_jax evaluate RUN[@best]")
            _evaluate_run(flags, *split_run(words[0]), json_file, output)
        elif runs:
            _evaluate_ensemble(flags, runs, folder, json_file, output)
        else:
            check(folder is not None, "name a run: cnn_jax evaluate RUN, or --workdir=RUN --checkpoint=best")
            _evaluate_run(flags, folder, flags.checkpoint or "latest", json_file, output)


def _evaluate_run(flags: cli.Flags, folder: Any, which: str, json_file: Path | None, output: Path | None) -> None:
    """Evaluates a checkpoint with the run's own configuration; the command line may change how it evaluates."""
    from cnn_jax.checkpoint import bucket
    from cnn_jax.training.evaluate_run import evaluate_run

    configuration = cli.given(flags)
    if configuration is None:
        with bucket.opened(folder) as here:
            configuration = recorded_run(flags, here)
    if flags.print_config:
        print(configuration.text())
    else:
        evaluate_run(configuration.config, folder, which, json_file=json_file, output=output)


def _evaluate_ensemble(
    flags: cli.Flags,
    runs: Sequence[str],
    folder: Path | str | None,
    json_file: Path | None,
    output: Path | None,
) -> None:
    """Evaluates runs and the average of their class probabilities; `folder` receives the numbers, if it is given."""
    from cnn_jax.training.evaluate_run import evaluate_ensemble

    if flags.checkpoint or cli.given(flags):
        raise UserError(
            "--checkpoints evaluates runs with their own configurations, each at FOLDER@latest, @best or @STEP: leave "
            "out --config and --checkpoint (--config.eval.protocol=flip alone changes how all are evaluated)"
        )
    if folder is not None:
        check_folder("--workdir", str(folder))
    members = [(recorded_run(flags, path).config, path, which) for path, which in map(split_run, runs)]
    evaluate_ensemble(members, Path(folder) if folder else None, json_file=json_file, output=output)


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
