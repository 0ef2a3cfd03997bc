"""Measures training: its speed and where it is lost, compile time, memory, and the share of the machine's peak.

python -m cnn_jax.benchmark --config=configs/resnet50.py
python -m cnn_jax.benchmark --config=configs/lenet5.py --against=flax --json
python -m cnn_jax.benchmark --config=configs/resnet20.py:cifar10 --only=data --config.data.placement=stream
python -m cnn_jax.benchmark --config=configs/resnet50.py:folder --config.data.dir=photos --only=data --against=torch
python -m cnn_jax.benchmark scaling --config=configs/resnet50.py --devices=1,2,4,8

How it is measured stands in `measure` and `scaling`, and what --against compares with in `baselines` and `torch_data`.
"""

import json
import math
from typing import Any

from absl import flags

from cnn_jax.config import commandline
from cnn_jax.core.errors import check, check_choice

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object in place of the table.")
_AGAINST = flags.DEFINE_enum(
    "against",
    None,
    ["flax", "torch", "full"],
    "Also measure the loop of Flax's tutorial, PyTorch and its DataLoader, or the step that trains all parameters.",
)
_ONLY = flags.DEFINE_string("only", "step,data,both", "What to measure: the step, its data, both at once.")
_DEVICES = flags.DEFINE_list(
    "devices", ["1", "2", "4", "8"], "With scaling: numbers of devices, with each of which the step is measured."
)
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Length of one measurement; there are 5 of each.")


def start(words: list[str]) -> None:
    """Runs what the command line says."""
    check(
        words in ([], ["scaling"]),
        f"unexpected argument {' '.join(words)!r}: scaling alone measures several numbers of devices",
    )
    check(
        bool(words) or not flags.FLAGS["devices"].present,
        "--devices goes with scaling: benchmark scaling --devices=1,2",
    )
    config = commandline.needed_config()
    seconds, only = _SECONDS.value, _ONLY.value.split(",")
    check(math.isfinite(seconds) and seconds > 0, f"--seconds is {seconds}, but must be above 0")
    from rich.console import Console

    from cnn_jax.benchmarking import measure
    from cnn_jax.core import compilation_cache

    if words:
        start_scaling(config)
        return
    compilation_cache.enable()
    for part in only:
        check_choice("--only", part, measure.PARTS)
    progress = Console(stderr=True)
    result = measure.benchmark(config, only=only, against=_AGAINST.value, seconds=seconds, progress=progress)
    if _JSON.value:
        print(json.dumps(result, indent=2))
    else:
        print_result(result, Console())


def start_scaling(config: Any) -> None:
    """Measures the step with the numbers of devices that --devices names."""
    words = _DEVICES.value
    for flag in ("only", "against"):
        check(not flags.FLAGS[flag].present, f"--{flag} does not go with scaling, which measures the step alone")
    check(
        all(word.isdecimal() for word in words),
        f"--devices is {','.join(words)!r}, but must be numbers of devices, such as 1,2,4,8",
    )
    from rich.console import Console

    from cnn_jax.benchmarking import scaling

    counts = [int(word) for word in words]
    result = scaling.scaling(config, counts, seconds=_SECONDS.value, progress=Console(stderr=True))
    if _JSON.value:
        print(json.dumps(result, indent=2))
        return
    from cnn_jax.display.tables import Sheet, render

    print(
        f"{result['model']} on {result['data']}, {result['precision']}; {result['device_kind']} "
        f"({result['platform']}), jax {result['jax_version']}; medians of {result['repeats']} rounds\n"
    )
    headings = ("devices", "global batch", "images/s", "ratio to 1 device", "min - max")
    for kind, title in (("strong", "strong: the same batch"), ("weak", "weak: the same batch on each device")):
        lines = [
            (row["devices"], row["batch_size"], row["images_per_second"]["median"], row["ratio"]["median"])
            + (f"{row['ratio']['min']:.2f} - {row['ratio']['max']:.2f}",)
            + (() if result["forced"] else (f"{row['efficiency']['median']:.1%}",))
            for row in result["scaling"][kind]
        ]
        print(render([Sheet(title, headings if result["forced"] else (*headings, "efficiency"), lines)], "text"))
    print(scaling.note(result))


def print_result(result: dict[str, Any], console: Any) -> None:
    """Prints the short table."""
    from rich.table import Table

    from cnn_jax.display.tables import human

    devices = f"{result['device_count']} x {result['device_kind']} ({result['platform']}), jax {result['jax_version']}"
    console.print(
        f"{result['model']} on {result['data']}, batch {result['batch_size']}, {result['precision']}; {devices}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column(f"min - max of {result['repeats']}", justify="right")
    for names in (result["images_per_second"], result["ratios"]):
        for name, values in names.items():
            if values:
                decimals = max(0, 2 - int(math.log10(max(1, values["median"]))))  # three digits
                median, low, high = (f"{values[key]:,.{decimals}f}" for key in ("median", "min", "max"))
                unit = ", images/s" if names is result["images_per_second"] else ""
                table.add_row(name + unit, median, f"{low} - {high}")
    console.print(table, highlight=False)
    memory, seconds = result["memory"], result["compile_seconds"]
    lines = []
    if seconds:
        lines.append(f"compilation {seconds['trace_and_lower']:.2f} s tracing + {seconds['compile']:.2f} s compiling")
    step = f"{human(memory['step_bytes'])}B for the step by XLA's account, " if memory["step_bytes"] else ""
    if result["stream"]:
        stream = result["stream"]
        scaled = ", scaled decoding" if stream["scaled_decoding"] else ""
        held = f"at most {stream['held_batches']} batches = {human(stream['held_bytes'])}B read ahead"
        lines.append(f"stream      {stream['workers']} workers{scaled}, {held}")
    lines.append(f"memory      {step}{human(memory['peak_bytes'])}B peak of {memory['peak_of']}")
    if result["share_of_matmul_peak"]:
        peak = f"{human(result['matmul_peak_flops_per_second'])}FLOP/s measured on products of square matrices"
        lines.append(f"peak        {peak}")
        share = f"{result['share_of_matmul_peak']:.1%} of it: 2 FLOPs x 3 x MACs for each image"
        lines.append(f"share       {share}")
    if result["reference"]:
        lines.append(f"reference   {result['reference']}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    commandline.launch(start, operands=True)
