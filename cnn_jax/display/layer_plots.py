"""Pictures of layers.jsonl: how every layer changes during training."""

from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.display.plots import save, subplots
from cnn_jax.tracking.recorder import read_jsonl

PANELS = (  # title, records, field, whether on a logarithmic axis
    ("deviation of the outputs", "layers", "deviation", True),
    ("channels that are never positive, %", "layers", "never_positive", False),
    ("norm of the kernel's gradient", "parameters", "gradient_norm", True),
    ("norm of the kernel", "parameters", "norm", True),
)


def plot_layers(workdir: Path) -> Path:
    """Draws WORKDIR/layers.png from layers.jsonl: four numbers of every convolution and linear layer over epochs.

    Returns:
      The path of the picture, 1500 x 1050 pixels.

    Raises:
      UserError: there are no records.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    records = read_jsonl(workdir / "layers.jsonl")
    check(bool(records), f"{workdir / 'layers.jsonl'} has no records")
    names = [row["name"] for row in records[0]["layers"] if row["kind"] in ("conv", "linear")]
    epochs = [record["epoch"] for record in records]
    figure, axes = subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for axis, (title, kind, field, is_log) in zip(axes.flat, PANELS, strict=True):
        for name, color in zip(names, colors, strict=True):
            key = name if kind == "layers" else f"{name}/kernel"
            axis.plot(epochs, [_number(record[kind], key, field) for record in records], color=color, lw=1)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if is_log:
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, max(5.0, axis.get_ylim()[1]))
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    scale = ScalarMappable(Normalize(1, max(2, len(names))), colormaps["viridis"])
    label = f"layer, from the image ({names[0]}) to the classes ({names[-1]})"
    figure.colorbar(scale, ax=axes, ticks=MaxNLocator(integer=True), label=label)
    return save(figure, workdir / "layers.png")


def _number(rows: list[dict[str, Any]], name: str, field: str) -> float:
    value = next((float(row[field]) for row in rows if row["name"] == name), float("nan"))
    return 100 * value if field == "never_positive" else value
