"""Curves of several runs in one plot, from their files; runs may still be training."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.core.files import read_json, write_text
from cnn_jax.display.page import page
from cnn_jax.display.plots import save, subplots
from cnn_jax.display.tables import Sheet, render
from cnn_jax.tracking.recorder import read_jsonl

MOST = 40  # runs: more colors cannot be told apart
DECADE = 10.0  # errors that span more are drawn on a logarithmic axis


def write(folders: Sequence[Path], path: Path) -> list[str]:
    """Draws the curves of runs into a PNG, or into an HTML page with a table of where they are.

    Args:
      path: ends with .png or .html.

    Returns:
      A sentence for each folder without records, which is left out.

    Raises:
      UserError: a file is damaged, or no run has records.
    """
    runs = {folder: read_jsonl(folder / "metrics.jsonl") for folder in folders}
    notes = [
        f"{folder}: left out, it has no records of training" for folder, records in runs.items() if not _has(records)
    ]
    runs = {folder: records for folder, records in runs.items() if _has(records)}
    check(bool(runs), "no run is left that has records of training")
    check(len(runs) <= MOST, f"--curves draws at most {MOST} runs, whose colors can be told apart, not {len(runs)}")
    labels = names(list(runs))
    if path.suffix == ".png":
        draw(dict(zip(labels, runs.values(), strict=True)), path)
        return notes
    picture = path.with_suffix(".png")
    draw(dict(zip(labels, runs.values(), strict=True)), picture)
    text = f"# Curves of {len(runs)} runs\n\n![Loss and error over epochs]({picture.name})\n\n"
    write_text(path, page(text + render([sheet(runs)], "markdown"), [picture]))
    return notes


def _has(records: Sequence[dict[str, Any]]) -> bool:
    return any(record["kind"] == "train" for record in records)


def names(folders: Sequence[Path]) -> list[str]:
    """Returns short names of folders: without the folders that all of them are in."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    whole = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath([folder.parent for folder in whole]))
    return [str(folder.relative_to(common)) for folder in whole]


def sheet(runs: dict[Path, list[dict[str, Any]]]) -> Sheet:
    """Returns the table of runs: how far each is, and its best validation."""
    rows = []
    for name, (folder, records) in zip(names(list(runs)), runs.items(), strict=True):
        config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        epochs, errors = series(records, "validation", "error")
        _, tests = series(records, "test", "error")
        best = int(np.nanargmin(errors)) if len(errors) and not np.isnan(errors).all() else None
        rows.append(
            (
                name,
                str(config.get("model", {}).get("name", "")),
                f"{max(record['epoch'] for record in records):.4g}",
                "" if best is None else f"{errors[best]:.2f}",
                "" if best is None else f"{epochs[best]:.4g}",
                f"{tests[-1]:.2f}" if len(tests) else "",
            )
        )
    headings = ("run", "network", "epochs", "best validation error, %", "at epoch", "test error, %")
    return Sheet("Runs", headings, rows)


def series(records: Sequence[dict[str, Any]], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (epochs, values) of the records of a kind; errors in percent."""
    chosen = [record for record in records if record["kind"] == kind and name in record]
    scale = 100 if name == "error" else 1
    return np.array([r["epoch"] for r in chosen]), scale * np.array([float(r[name]) for r in chosen])


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """Draws training loss and error (thin) and validation error (bold) over epochs, a color for each run.

    Args:
      runs: label -> records.

    Returns:
      The path of the picture, 1650 pixels wide.
    """
    rows = -(-len(runs) // (columns := 2 if max(map(len, runs)) > 40 else 3))
    figure, (loss_axis, error_axis) = subplots(2, sharex=True, figsize=(11, 7.5 + 0.22 * rows), layout="constrained")
    lines, errors = [], []
    for (label, records), color in zip(runs.items(), colors(len(runs)), strict=True):
        epochs, losses = series(records, "train", "loss")
        loss_axis.plot(epochs, losses, color=color, lw=1.2)
        error_axis.plot(*series(records, "train", "error"), color=color, lw=0.8, alpha=0.5)
        epochs, validation = series(records, "validation", "error")
        errors += [validation, series(records, "train", "error")[1]]
        best = f": {np.nanmin(validation):.2f}%" if len(validation) and not np.isnan(validation).all() else ""
        (line,) = error_axis.plot(epochs, validation, color=color, lw=2, marker="o" if len(epochs) < 30 else "", ms=3)
        line.set_label(f"{label}{best}")
        lines.append(line)
    _logarithmic(loss_axis)
    loss_axis.set_ylabel("training loss, nats")
    error_axis.set_ylabel("error, %: validation bold, training thin")
    error_axis.set_xlabel("epoch")
    values = np.concatenate(errors)
    above = values[np.isfinite(values) & (values > 0)]
    if len(above) and above.max() > DECADE * above.min():
        _logarithmic(error_axis)
    else:
        error_axis.set_ylim(bottom=0)
    for axis in (loss_axis, error_axis):
        axis.grid(alpha=0.3)
    title = "lowest validation error"
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, fontsize=9, title=title, title_fontsize=9)
    return save(figure, path)


def _logarithmic(axis: Any) -> None:
    """Gives an axis a logarithmic scale with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def colors(count: int) -> list[Any]:
    """Returns that many colors: ten of matplotlib's, then even steps through a color map."""
    from matplotlib import colormaps

    return [f"C{i}" for i in range(count)] if count <= 10 else list(colormaps["turbo"](np.linspace(0.02, 0.95, count)))
