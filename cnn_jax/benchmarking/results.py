"""What the benchmarks print."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from cnn_jax.display.tables import Sheet, human, render


def print_result(result: dict[str, Any], console: Console) -> None:
    """Prints the short table."""
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
    groups = [(result["images_per_second"], ", images/s", 1.0), (result["ratios"], "", 1.0)]
    if result["platform"] == "cpu":
        groups.insert(1, (result["cpu_seconds_per_image"], ", CPU ms per image", 1000.0))
    for names, unit, factor in groups:
        for name, values in names.items():
            if values:
                median, low, high = (factor * values[key] for key in ("median", "min", "max"))
                decimals = max(0, 2 - math.floor(math.log10(median))) if median > 0 else 2  # three digits
                table.add_row(name + unit, *(f"{median:,.{decimals}f}", f"{low:,.{decimals}f} - {high:,.{decimals}f}"))
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


def print_scaling(result: dict[str, Any], note: str) -> None:
    """Prints the tables of `scaling.scaling`, and a note below."""
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
    print(note)
