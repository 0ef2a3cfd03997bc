"""From recorded files to plots. Reads files only, so a report can be made again without running anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.metrics import read_jsonl


def plot_curves(workdir: Path) -> Path:
    """Draws WORKDIR/curves.png from metrics.jsonl: loss and error over epochs, the learning rate below.

    Returns:
      The path of the picture, 1200 x 900 pixels.
    """
    records = read_jsonl(workdir / "metrics.jsonl")
    figure, (loss_axis, error_axis, rate_axis) = _subplots(
        3, height_ratios=(3, 3, 1.5), sharex=True, figsize=(8, 6), layout="constrained"
    )
    for kind, style in (("train", dict(color="C0", lw=1)), ("validation", dict(color="C1", marker="o", ms=3))):
        epochs, losses, errors = _columns(records, kind, "epoch", "loss", "error")
        if not len(epochs):
            continue
        loss_axis.plot(epochs, losses, label=kind, **style)
        error_axis.plot(epochs, 100 * errors, label=kind, **style)
    epochs, losses, errors = _columns(records, "test", "epoch", "loss", "error")
    if len(epochs):
        loss_axis.plot(epochs[-1:], losses[-1:], "k*", label="test")
        error_axis.plot(epochs[-1:], 100 * errors[-1:], "k*", label=f"test: {100 * errors[-1]:.2f}%")
    epochs, rates = _columns(records, "train", "epoch", "learning_rate")
    rate_axis.plot(epochs, rates, color="C2", lw=1)
    loss_axis.set_ylabel("loss, nats")
    error_axis.set_ylabel("top-1 error, %")
    rate_axis.set_ylabel("learning rate")
    rate_axis.set_xlabel("epoch")
    config = workdir / "config.json"
    if config.exists():
        stored = json.loads(config.read_text(encoding="utf-8"))
        figure.suptitle(f"{stored['model']['name']} on {stored['data']['name']}", fontsize=11)
    loss_axis.set_yscale("log")
    error_axis.set_ylim(bottom=0)
    for axis in (loss_axis, error_axis):
        if axis.lines:
            axis.legend(loc="upper right")
    for axis in (loss_axis, error_axis, rate_axis):
        axis.grid(alpha=0.3)
    return _save(figure, workdir / "curves.png")


def plot_confusion(confusion: np.ndarray, class_names: list[str], path: Path) -> Path:
    """Draws a confusion matrix, int [K, K] with true classes as rows; shares of each row are shown by colour."""
    confusion = np.asarray(confusion)
    classes = len(class_names)
    side = min(20.0, max(5.0, 0.45 * classes))
    figure, axis = _subplots(1, figsize=(side, side), layout="constrained")
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if classes <= 30:
        axis.set_xticks(range(classes), class_names, rotation=90)
        axis.set_yticks(range(classes), class_names)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return _save(figure, path)


def plot_layers(networks: dict[str, list[tuple[str, int, int]]], path: Path) -> Path:
    """Draws (name, parameters, MACs) of the layers of each network, in their order, on logarithmic scales."""
    figure, axes = _subplots(2, figsize=(10, 8), layout="constrained")
    longest = max((layers for layers in networks.values()), key=len)
    for field, (axis, label) in enumerate(zip(axes, ("parameters", "MACs"), strict=True), start=1):
        for i, (name, layers) in enumerate(networks.items()):
            places = [place for place, layer in enumerate(layers) if layer[field]]
            axis.plot(places, [layers[place][field] for place in places], f"C{i}o", ms=4, label=name)
        axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
        if len(networks) == 1 and len(longest) <= 80:
            axis.set_xticks(range(len(longest)), [name for name, *_ in longest], rotation=90, fontsize=6)
        else:
            axis.set_xlabel("layer")
    return _save(figure, path)


def _columns(records: list[dict[str, Any]], kind: str, *names: str) -> list[np.ndarray]:
    """Returns the values of each name over the records of one kind, as float arrays."""
    chosen = [record for record in records if record["kind"] == kind]
    return [np.array([float(record[name]) for record in chosen]) for name in names]


def _subplots(rows: int, **options: Any) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, 1, **options)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    partial = path.with_name(path.stem + ".partial.png")
    figure.savefig(partial, dpi=150)
    pyplot.close(figure)
    partial.replace(path)
    return path
