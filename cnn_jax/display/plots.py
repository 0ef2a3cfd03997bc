"""Plots from recorded files. It only reads files, so plots can be drawn again without running anything."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core import files
from cnn_jax.core.text import printable, shortened
from cnn_jax.tracking.recorder import read_jsonl

LONGEST_NAME = 24  # characters of a class name next to a matrix


def plot_curves(workdir: Path) -> Path:
    """Draws WORKDIR/curves.png from metrics.jsonl: loss and error over epochs, the learning rate below.

    Returns:
      The path of the picture, 1200 x 900 pixels.
    """
    records = read_jsonl(workdir / "metrics.jsonl")
    figure, (loss_axis, error_axis, rate_axis) = subplots(
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
        stored = files.read_json(config)
        figure.suptitle(f"{stored['model']['name']} on {stored['data']['name']}", fontsize=11)
    loss_axis.set_yscale("log")
    error_axis.set_ylim(bottom=0)
    for axis in (loss_axis, error_axis):
        if axis.lines:
            axis.legend(loc="upper right")
    for axis in (loss_axis, error_axis, rate_axis):
        axis.grid(alpha=0.3)
    return save(figure, workdir / "curves.png")


def plot_learning_rate(epochs: np.ndarray, rates: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws the learning rate over epochs; on a logarithmic axis where the rates above 0 span more than a decade and
    change in a few jumps.

    Args:
      epochs, rates: [steps].
    """
    figure, axis = subplots(1, figsize=(7, 3.6), layout="constrained")
    axis.plot(epochs, rates, color="C2", lw=1.8)
    above = rates[rates > 0]
    if len(above) and above.max() > 10 * above.min() and len(np.unique(rates)) < max(8, len(rates) // 4):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlim(0, epochs[-1])
    axis.set_xlabel("epoch")
    axis.set_ylabel("learning rate")
    axis.set_title(title, fontsize=10, wrap=True)
    axis.grid(alpha=0.3)
    return save(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: list[str], path: Path) -> Path:
    """Draws a confusion matrix, int [K, K] with true classes as rows; colors show the shares within each row."""
    confusion = np.asarray(confusion)
    classes = len(class_names)
    side = min(20.0, max(5.0, 0.45 * classes))
    figure, axis = subplots(1, figsize=(side, side), layout="constrained")
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if classes <= 30:
        names = [plain(shortened(name, LONGEST_NAME)) for name in class_names]
        axis.set_xticks(range(classes), names, rotation=90)
        axis.set_yticks(range(classes), names)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return save(figure, path)


def plot_reliability(
    counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, path: Path, *, title: str
) -> Path:
    """Draws a reliability diagram (Guo et al. 2017, figure 1): accuracy over confidence, with the examples in each bin
    below.

    Args:
      counts, confidence, accuracy: [bins], for bins of equal width; means are NaN in empty bins.

    Returns:
      The path of the picture, 900 x 1050 pixels.
    """
    bins = len(counts)
    edges, full = np.arange(bins) / bins, np.asarray(counts) > 0
    figure, (axis, below) = subplots(2, height_ratios=(3, 1), sharex=True, figsize=(6, 7), layout="constrained")
    figure.suptitle(title, fontsize=11, wrap=True)
    bars = dict(width=1 / bins, align="edge")
    white = dict(edgecolor="white", linewidth=0.5)
    axis.bar(edges[full], accuracy[full], color="C0", label="accuracy", **bars, **white)
    gaps = dict(bottom=accuracy[full], facecolor="none", edgecolor="C3", hatch="///", linewidth=1)
    axis.bar(edges[full], (confidence - accuracy)[full], label="from accuracy to confidence", **gaps, **bars)
    axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="calibrated")
    axis.set_ylabel("accuracy")
    axis.set_ylim(0, 1)
    axis.legend(loc="upper left")
    below.bar(edges[full], 100 * np.asarray(counts)[full] / np.sum(counts), color="C7", **bars, **white)
    below.set_ylabel("examples, %")
    below.set_xlabel("confidence: the probability of the predicted class")
    below.set_xlim(0, 1)
    for one in (axis, below):
        one.grid(alpha=0.3)
        one.set_axisbelow(True)
    return save(figure, path)


def plot_layers(networks: dict[str, list[tuple[str, int, int, int, int]]], path: Path) -> Path:
    """Draws parameters (above) and MACs (below) of the parts of networks, side by side on the same scale.

    Args:
      networks: for each network (name, parameters, parameters of linear layers, MACs, MACs of linear layers) of its
        parts, in their order. Linear layers have their own color.

    Returns:
      The path of the picture, 16:9, wider with more parts.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter

    engineering = EngFormatter()

    def short(value: float, _: Any = None) -> str:
        return engineering(float(f"{value:.3g}")).strip()

    counts = [len(parts) for parts in networks.values()]
    width = max(10.0, 0.42 * sum(counts) + 1.5)
    figure, axes = subplots(
        *(2, len(networks)),
        squeeze=False,
        sharex="col",
        sharey="row",
        width_ratios=counts,
        figsize=(width, width * 9 / 16),
        layout="constrained",
    )
    for field, (quantity, row) in enumerate(zip(("parameters", "MACs"), axes, strict=True)):
        for (label, parts), axis in zip(networks.items(), row, strict=True):
            places = np.arange(len(parts))
            whole, linear = (np.array([part[column + 2 * field] for part in parts], float) for column in (1, 2))
            axis.bar(places, whole - linear, color="C0", label="convolutions")
            tops = axis.bar(places, linear, bottom=whole - linear, color="C1", label="linear layers")
            axis.bar_label(tops, [short(value) for value in whole], fontsize=7, padding=1)
            axis.set_title(f"{label}: {short(whole.sum())} {quantity}", fontsize=11)
            axis.set_xlim(-0.7, len(parts) - 0.3)
            axis.grid(axis="y", alpha=0.3)
            axis.set_axisbelow(True)
            axis.yaxis.set_major_formatter(FuncFormatter(short))
            axis.set_xticks(
                places, [plain(name) for name, *_ in parts], rotation=60, ha="right", rotation_mode="anchor"
            )
        row[0].set_ylabel(quantity)
        row[0].set_ylim(0, 1.1 * max(float(part[1 + 2 * field]) for parts in networks.values() for part in parts))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return save(figure, path)


def plot_images(
    rows: Sequence[Sequence[np.ndarray]],
    path: Path,
    *,
    title: str,
    columns: Sequence[str],
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> Path:
    """Draws images, uint8 [H, W, 1 or 3], in rows and columns; small ones are enlarged by whole pixels, not blurred.

    Args:
      columns: what is above each column. names: left of each row. captions: below each image, or "".
    """
    height, width, _ = rows[0][0].shape
    size = (1.7 * len(columns) + 0.4, (1.7 * height / width + 0.25) * len(rows) + 0.7)
    figure, axes = subplots(len(rows), len(columns), squeeze=False, figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, wrap=True)
    interpolation = "nearest" if max(height, width) <= 128 else "antialiased"
    for images, row_axes, name, below in zip(rows, axes, names, captions, strict=True):
        row_axes[0].set_ylabel(name)
        for image, axis, caption in zip(images, row_axes, below, strict=True):
            grey = image.shape[-1] == 1
            axis.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
            axis.set_xlabel(caption, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize=10)
    return save(figure, path)


def _columns(records: list[dict[str, Any]], kind: str, *names: str) -> list[np.ndarray]:
    """Returns the values of each name over the records of one kind, as float arrays."""
    chosen = [record for record in records if record["kind"] == kind and all(name in record for name in names)]
    return [np.array([float(record[name]) for record in chosen]) for name in names]


def subplots(
    rows: int,
    columns: int = 1,
    *,
    figsize: tuple[float, float] = (6.4, 4.8),
    layout: str = "constrained",
    **options: Any,
) -> Any:
    """Returns (figure, axes) like `matplotlib.pyplot.subplots`, without pyplot's global state."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=figsize, layout=layout)  # pyright: ignore[reportArgumentType]
    return figure, figure.subplots(rows, columns, **options)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure as PNG and returns the path. All text is drawn literally: class names are not markup.

    Raises:
      StorageError: it cannot be written.
    """
    import warnings

    note = _prepare_texts(figure)
    with files.written(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the returned note reports it
        figure.savefig(partial, dpi=150, format="png")
    if note:
        print(f"{path}: {note}", file=sys.stderr)
    return path


def plain(text: str) -> str:
    """Returns a text that matplotlib draws literally: for tick labels, which `save` does not change."""
    return printable(text).replace("$", r"\$")  # between two of them matplotlib reads mathematics


def _prepare_texts(figure: Any) -> str:
    """Makes the texts of a figure literal and chooses fonts; returns a note on characters that no font has, or ""."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    ticks = {text for tick in figure.findobj(Tick) for text in tick.findobj(Text)}
    texts = set(figure.findobj(Text))
    for text in texts - ticks:
        text.set_text(plain(text.get_text()))
    unknown = {letter for text in texts for letter in text.get_text() if letter > "\u02ff"} - _letters(None)
    if not unknown:
        return ""
    family, left = _font_with(frozenset(unknown))
    for text in texts if family else ():
        text.set_fontfamily([*text.get_fontfamily(), family])
    examples = "".join(sorted(left)[:4])
    return f"no font on this machine has {len(left)} of the characters, such as {examples}: install one" if left else ""


@functools.cache
def _letters(file: str | None) -> frozenset[str]:
    """Returns the characters that the font in a file can draw; None: the default font."""
    from matplotlib import font_manager

    return frozenset(
        map(chr, font_manager.get_font(file or font_manager.findfont(font_manager.FontProperties())).get_charmap())
    )


@functools.cache
def _font_with(letters: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Returns (name of the font that has most of these letters or "", the letters that it lacks)."""
    from matplotlib.font_manager import fontManager

    best, lacking = "", letters
    for font in (font for font in fontManager.ttflist if "Last Resort" not in font.name):  # it only draws boxes
        try:
            left = letters - _letters(font.fname)
        except (OSError, RuntimeError):  # a font that was removed or is damaged
            continue
        if len(left) < len(lacking):
            best, lacking = font.name, left
    return best, lacking
