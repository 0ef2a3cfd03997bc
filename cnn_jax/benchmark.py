"""Measures training: its speed and where it is lost, compile time, memory, and the share of the machine's peak.

    cnn_jax benchmark --config=resnet50
    cnn_jax benchmark --config=lenet5 --against=flax --json
    cnn_jax benchmark --config=vgg16 --against=torch --only=step,evaluation
    cnn_jax benchmark --config=resnet20:cifar10 --only=data --config.data.placement=stream
    cnn_jax benchmark --config=resnet50:folder --config.data.dir=photos --only=data --against=torch
    cnn_jax benchmark gpu --output=gpu.json
    cnn_jax benchmark scaling --config=resnet50 --devices=1,2,4,8
    cnn_jax benchmark scaling --model --preflight=preflight.json --devices=16,64,256
    cnn_jax benchmark scaling --model --network=resnet50 --devices=1,8,256 --peak=312e12 --utilization=0.4

How it is measured is in `cnn_jax/benchmarking`: `measure` and `scaling`; --against compares with `baselines` and
`torch_data`. `gpu` measures what there is to know of one GPU, in --minutes (`gpu`). `scaling --model` measures nothing:
it predicts the step at N accelerators from your numbers (`scaling_model`).
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_float, DEFINE_integer, DEFINE_list, DEFINE_string

from cnn_jax.benchmarking.scaling_model import System
from cnn_jax.config import cli
from cnn_jax.core.errors import check, check_choice

PARTS = ("step", "data", "both", "evaluation", "fused")
DEFAULT = PARTS[:3]
MEASURED = ("json", "against", "only")  # flags of the measurement with the devices that are there
OF_MODEL = tuple(field.name for field in fields(System))


def define(flags: cli.Flags) -> None:
    cli.define_config(flags)
    with flags.under("Measuring"):
        DEFINE_bool("json", False, "Print one JSON object instead of the table.", flag_values=flags)
        DEFINE_enum(
            "against",
            None,
            ["flax", "torch", "full"],
            "Also measure the loop of Flax's tutorial, PyTorch and its DataLoader, or the step that trains all "
            "parameters.",
            flag_values=flags,
        )
        DEFINE_string(
            "only",
            ",".join(DEFAULT),
            "PARTS: the step, its data, both at once, evaluation (of config.batch_size examples), 16 steps fused.",
            flag_values=flags,
        )
        DEFINE_float("seconds", 2.0, "Length of one measurement; there are 5 of each.", flag_values=flags)
    with flags.under("A GPU in some minutes: benchmark gpu"):
        DEFINE_float("minutes", 8.0, "After which it ends; what is not done by then is named.", flag_values=flags)
        DEFINE_string("output", "gpu.json", "FILE.json: the measurements; runs are in FILE/.", flag_values=flags)
        DEFINE_bool("small", False, "Tiny sizes, to try the command on any machine.", flag_values=flags)
    with flags.under("Scaling"):
        DEFINE_list(
            "devices",
            None,
            "N,N,...: numbers of devices. Default: 1,2,4,8; with --model 1,8,64,256,1024.",
            flag_values=flags,
        )
    with flags.under("Scaling on paper"):
        DEFINE_bool("model", False, "Predict the step from the numbers below; measure nothing.", flag_values=flags)
        DEFINE_list("network", ["resnet50", "vgg16"], "NAME,...: networks.", flag_values=flags)
        DEFINE_string(
            "preflight",
            None,
            "FILE: of cnn_jax preflight --json=FILE, whose compute and bytes replace those of --network.",
            flag_values=flags,
        )
        DEFINE_enum("format", "text", ["text", "markdown", "csv"], "What to print.", flag_values=flags)
        DEFINE_string("plot", None, "FILE: picture to write, such as scaling.png.", flag_values=flags)
        for field in fields(System):
            define_number: Any = DEFINE_integer if field.type is int else DEFINE_float
            define_number(field.name, field.default, field.metadata["help"], flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    check(
        words in ([], ["scaling"], ["gpu"]),
        f"unexpected argument {' '.join(words)!r}: scaling measures several numbers of devices, gpu one GPU",
    )
    check(
        words == ["scaling"] or not flags["devices"].present,
        "--devices goes with scaling: cnn_jax benchmark scaling --devices=1,2",
    )
    for flag in ("network", "preflight", "format", "plot", *OF_MODEL):
        check(flags.model or not flags[flag].present, f"--{flag} goes with scaling --model")
    check(not flags.model or words == ["scaling"], "--model goes with scaling: cnn_jax benchmark scaling --model")
    check(math.isfinite(flags.seconds) and flags.seconds > 0, f"--seconds is {flags.seconds}, but must be above 0")
    for flag in ("minutes", "output", "small"):
        check(words == ["gpu"] or not flags[flag].present, f"--{flag} goes with gpu: cnn_jax benchmark gpu")
    if words == ["gpu"]:
        gpu(flags)
    elif flags.model:
        scaling_on_paper(flags)
    elif words:
        scaling(flags, cli.needed(flags).config)
    else:
        speed(flags, cli.needed(flags).config)


def speed(flags: cli.Flags, config: Any) -> None:
    """Measures training with the devices that are there."""
    only = flags.only.split(",")
    for part in only:
        check_choice("--only", part, PARTS)
    from rich.console import Console

    from cnn_jax.benchmarking import measure, results
    from cnn_jax.core import compilation_cache

    compilation_cache.enable()
    progress = Console(stderr=True)
    result = measure.benchmark(config, only=only, against=flags.against, seconds=flags.seconds, progress=progress)
    if flags.json:
        print(json.dumps(result, indent=2))
    else:
        results.print_result(result, Console())


def gpu(flags: cli.Flags) -> None:
    """Measures one GPU, each part in a process of its own, and prints a table."""
    for flag in (*MEASURED, "config", "from"):
        check(not flags[flag].present, f"--{flag} does not go with gpu, which has its own")
    output = Path(flags.output)
    cli.check_output(output, "--output", ".json")
    check(math.isfinite(flags.minutes) and flags.minutes > 0, f"--minutes is {flags.minutes}, but must be above 0")
    from cnn_jax.benchmarking import gpu as measured
    from cnn_jax.display.tables import Sheet, render, screen

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = measured.measure(output, minutes=flags.minutes, small=flags.small, seconds=flags.seconds, say=say)
    sheet = Sheet(f"One GPU in {flags.minutes:g} minutes", ("measured", "value", "of"), measured.lines(found))
    print(render([sheet], "text", width=screen()), end="")
    print(f"written to {output}")


def scaling(flags: cli.Flags, config: Any) -> None:
    """Measures the step with the numbers of devices that --devices names."""
    for flag in ("only", "against"):
        check(not flags[flag].present, f"--{flag} does not go with scaling, which measures the step alone")
    words = ["1", "2", "4", "8"] if flags.devices is None else flags.devices
    check(
        all(word.isdecimal() for word in words),
        f"--devices is {','.join(words)!r}, but must be numbers of devices, such as 1,2,4,8",
    )
    from rich.console import Console

    from cnn_jax.benchmarking import results
    from cnn_jax.benchmarking import scaling as measured

    counts = [int(word) for word in words]
    result = measured.scaling(config, counts, seconds=flags.seconds, progress=Console(stderr=True))
    if flags.json:
        print(json.dumps(result, indent=2))
    else:
        results.print_scaling(result, measured.note(result))


def scaling_on_paper(flags: cli.Flags) -> None:
    """Predicts the step at the numbers of accelerators that --devices names."""
    for flag in (*MEASURED, "config", "from", "seconds"):
        check(not flags[flag].present, f"--{flag} does not go with --model, which measures nothing")
    from cnn_jax.benchmarking import scaling_model

    numbers = {name: flags[name].value for name in OF_MODEL}
    workloads = []
    if flags.preflight is not None:
        check(not flags["network"].present, "--network and --preflight both name a network: give one of them")
        network, of_chip = scaling_model.compiled(Path(flags.preflight))
        numbers |= {name: value for name, value in of_chip.items() if not flags[name].present}
        check(
            not flags["images"].present or flags.images == of_chip["images"],
            f"--images is {flags.images}, but {flags.preflight!r} is for {of_chip['images']} images on each device",
        )
        workloads = [network]
    scaling_model.show(
        flags.network,
        ["1", "8", "64", "256", "1024"] if flags.devices is None else flags.devices,
        scaling_model.System(**numbers),
        form=flags.format,
        plot=Path(flags.plot) if flags.plot else None,
        workloads=workloads,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax benchmark [scaling [--model]] --config=RECIPE[:DATASET] [flags]")


if __name__ == "__main__":
    sys.exit(main())
