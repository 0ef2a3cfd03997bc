"""Compiles training and evaluation for TPUs or GPUs that you do not have: what fits, what is exchanged, how fast.

    cnn_jax preflight --config=resnet50:imagenet2012 --for=v5e:4x4
    cnn_jax preflight --config=resnet50:imagenet2012 --for=h100x8 --config.batch_size=2048 --json=preflight.json
    cnn_jax preflight --config=vgg16:imagenet2012 --for=v5e:2x2 --compare=mesh.preset=fsdp --compare=batch_size=512
    cnn_jax preflight table --for=v5e:1x1,h100x1 --network=lenet5,resnet20 --output=docs/preflight.md

Nothing runs and no data set is opened: times are estimates of the compiler. --for takes TPU slices (v4:2x2x1, v5e:4x4,
v5p:2x2x1, v6e:2x2) and GPUs (a100x8, h100x8, h200x1). TPUs need `pip install 'cnn-jax[tpu]'`, GPUs 'cnn-jax[cuda]' and
Python 3.12 or later. The exit code is 2 if something does not fit.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl.flags import DEFINE_bool, DEFINE_list, DEFINE_multi_string, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.config.configuration import Configuration
from cnn_jax.core import files
from cnn_jax.core.errors import check

if TYPE_CHECKING:
    from cnn_jax.ahead_of_time.targets import Target


def define(flags: cli.Flags) -> None:
    cli.define_config(flags)
    with flags.under("Target"):
        DEFINE_list("for", None, "CHIPS: such as v5e:4x4 or h100x8; several for a table.", flag_values=flags)
        DEFINE_bool(
            "thorough",
            False,
            "TPUs: compile as training does, several times slower than the default.",
            flag_values=flags,
        )
    with flags.under("Report"):
        DEFINE_multi_string(
            "compare",
            [],
            'CHANGE: another configuration in a table, "[RECIPE[:DATASET]] [FIELD=VALUE ...]"; may be repeated.',
            flag_values=flags,
        )
        DEFINE_bool("largest-batch", False, "Compile other batch sizes until the largest is found.", flag_values=flags)
        DEFINE_string("json", None, "FILE: all numbers.", flag_values=flags)
    with flags.under("Table of networks"):
        DEFINE_list(
            "network", None, "NAME,...: recipes of the table, each on its data. Default: all.", flag_values=flags
        )
        DEFINE_string("output", None, "FILE.md: the table, with the date.", flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> int | None:
    check(words in ([], ["table"]), f"unexpected argument {' '.join(words)!r}: table alone examines many networks")
    check(bool(flags["for"].value), "--for names the chips: cnn_jax preflight --for=v5e:4x4, or --for=h100x8")
    for flag in ("network", "output"):
        check(bool(words) or flags[flag].value is None, f"--{flag} goes with: cnn_jax preflight table")
    from cnn_jax.ahead_of_time import targets

    chosen = [targets.parse(text) for text in flags["for"].value]
    for target in chosen:
        targets.check_installed(target)
    os.environ["JAX_PLATFORMS"] = "cpu"  # the compilers need no device, and must not take one that is there
    return table(flags, chosen) if words else one(flags, chosen)


def one(flags: cli.Flags, chosen: "Sequence[Target]") -> int:
    """Examines a configuration, and those of --compare; returns the exit code."""
    first = cli.needed(flags)
    others = [first.other(text, flag="--compare") for text in flags.compare]
    path = Path(flags.json) if flags.json else None
    if path:
        cli.check_output(path, "--json")
    from cnn_jax.ahead_of_time import report
    from cnn_jax.ahead_of_time.examination import Examination, examine
    from cnn_jax.display.tables import render, screen

    found: list[tuple[str, Examination]] = []
    for name, configuration in zip(["this", *flags.compare], [first, *others], strict=True):
        for target in chosen:
            result = examine(configuration.config, target, thorough=flags.thorough, search=flags["largest-batch"].value)
            found.append((name, result))
    if len(found) > 1:
        print(render([report.comparison(found)], "text", width=screen()))
    else:
        for heading, text in report.lines(found[0][1], launched(flags, first)):
            print(f"{heading:12}{text}")
    if path:
        numbers = [{"configuration": name} | result.as_json() for name, result in found]
        write(path, json.dumps(numbers[0] if len(numbers) == 1 else numbers, indent=2) + "\n")
    return 0 if all(result.fits for _, result in found) else 2


def launched(flags: cli.Flags, configuration: Configuration) -> list[str]:
    """Returns the options of the training that was examined."""
    named = [f"--{flag}={flags[flag].value}" for flag in ("config", "from") if flags[flag].value is not None]
    return [*named, *(f"--config.{change}" for change in configuration.overrides)]


def table(flags: cli.Flags, chosen: "Sequence[Target]") -> None:
    """Examines many networks and prints a table, or writes it to --output."""
    for flag in ("config", "from", "json", "largest-batch"):
        check(not flags[flag].present, f"--{flag} does not go with table")
    check(not flags.compare, "--compare does not go with table")
    path = Path(flags.output) if flags.output else None
    if path:
        cli.check_output(path, "--output", ".md")
    from cnn_jax.ahead_of_time import overview

    text = overview.write(chosen, flags.network, thorough=flags.thorough)
    if path:
        write(path, text)
    else:
        print(text)


def write(path: Path, text: str) -> None:
    with files.storage_errors(f"{path} cannot be written"):
        files.write_text(path, text)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax preflight [table] --config=RECIPE[:DATASET] --for=CHIPS [flags]")


if __name__ == "__main__":
    sys.exit(main())
