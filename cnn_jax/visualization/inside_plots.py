"""Draws what happens inside a network. For values with signs, the middle gray is zero."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.decode import natural
from cnn_jax.display.plots import save, subplots

WIDTH = 7.2  # of most figures, inches: the text width of a page


def mosaic(tiles: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Returns tiles [N, h, w, C] in rows of `columns`, [H, W, C], with `gap` pixels of white, 1.0, between them."""
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    picture = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = tile
    return picture


def signed(values: np.ndarray, largest: float) -> np.ndarray:
    """Returns values from -largest to largest as brightness from 0 to 1: zero is the middle gray."""
    return np.clip(0.5 + 0.5 * values / (largest or 1.0), 0, 1)


def show(axis: Any, picture: np.ndarray, **options: Any) -> Any:
    """Draws a picture [H, W, 1 or 3], of bytes or from 0 to 1; small ones are enlarged by whole pixels."""
    grey = picture.shape[-1] == 1
    top = 255 if picture.dtype == np.uint8 else 1
    options = dict(cmap="gray", vmin=0, vmax=top, interpolation=_interpolation(picture)) | options
    drawn = axis.imshow(picture[..., 0] if grey else picture, **options)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return drawn


def _interpolation(picture: np.ndarray) -> str:
    return "nearest" if max(picture.shape[:2]) <= 160 else "antialiased"


def short(text: str, inches: float) -> str:
    """Returns a text that is at most about that wide in small print; if it is too long, its middle is left out."""
    most = max(5, int(15 * inches))
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def _grid(count: int, aspect: float = 1.0) -> int:
    """Returns the number of columns of a full grid of `count` tiles, about `aspect` times as wide as high."""
    wanted = max(1, round(math.sqrt(count * aspect)))
    near = range(max(1, wanted - wanted // 4), min(count, wanted + wanted // 2 + 1) + 1)
    return min(near, key=lambda columns: (-count % columns, columns < wanted, abs(columns - wanted)))


def plot_filters(kernels: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws kernels [h, w, C, N] of 1 or 3 channels as a grid, all on one scale, in their order (as in Krizhevsky et
    al. 2012, Fig. 3); the number of a kernel is the sum of the numbers to the left and above."""
    height, width, channels, count = kernels.shape
    tiles = np.moveaxis(kernels, -1, 0)
    largest = float(np.abs(tiles).max())
    columns = _grid(count, 1.8)
    zoom = -(-24 // max(height, width))  # so that the gap is narrower than a pixel of a small kernel
    tiles = signed(tiles, largest).repeat(zoom, axis=1).repeat(zoom, axis=2)
    picture = mosaic(tiles, columns, gap=3)
    rows = -(-count // columns)
    figure, axis = subplots(1, figsize=(WIDTH, WIDTH * picture.shape[0] / picture.shape[1] + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    drawn = show(axis, picture, interpolation="nearest", vmin=0, vmax=1)
    step = np.array([height * zoom + 3, width * zoom + 3])
    axis.set_yticks(np.arange(rows) * step[0] + height * zoom / 2, np.arange(rows) * columns)
    axis.set_xticks(np.arange(columns) * step[1] + width * zoom / 2, np.arange(columns))
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7, labelcolor="0.4")
    if channels == 1:
        bar = figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.02, ticks=(0, 0.5, 1))
        bar.ax.set_yticklabels([f"{value:.2g}" for value in (-largest, 0, largest)], fontsize=8)
        bar.set_label("weight", fontsize=8)
    return save(figure, path)


def plot_maps(
    image: np.ndarray, maps: np.ndarray, numbers: Sequence[int], path: Path, *, title: str, caption: str
) -> Path:
    """Draws an image, uint8 [H, W, C], and next to it maps [N, h, w] with their numbers, all on one scale."""
    columns = _grid(len(maps), 1.5)
    rows = -(-len(maps) // columns)
    side = (WIDTH - 2.9) / columns
    height = max(rows * (side * maps.shape[1] / maps.shape[2] + 0.16), 2.2) + 0.6
    figure, (left, right) = _parts(height, 2.0, WIDTH - 2.0)
    figure.suptitle(title, fontsize=10)
    axis = left.subplots()
    show(axis, image)
    axis.set_xlabel(short(caption, 1.9), fontsize=8)
    axes = right.subplots(rows, columns, squeeze=False)
    both = maps.min() < 0
    largest = float(np.abs(maps).max()) or 1.0
    scale = dict(cmap="gray", vmin=-largest, vmax=largest) if both else dict(cmap="viridis", vmin=0, vmax=largest)
    drawn = None
    for i, axis in enumerate(axes.ravel()):
        if i >= len(maps):
            axis.set_axis_off()
            continue
        drawn = show(axis, maps[i][..., None], **scale)
        axis.set_title(str(numbers[i]), fontsize=7, pad=2, color="0.3")
    bar = right.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.set_label("activation", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return save(figure, path)


def _parts(height: float, *widths: float) -> tuple[Any, Any]:
    """Returns a figure and its parts side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sum(widths), height), layout="constrained")
    return figure, figure.subfigures(1, len(widths), width_ratios=widths)


def plot_cams(
    rows: Sequence[tuple[np.ndarray, str, Sequence[tuple[str, float, np.ndarray]]]],
    path: Path,
    *,
    title: str,
    scale: str,
    contours: bool = True,
) -> Path:
    """Draws class activation maps over their images, a row for each image with one scale from zero.

    With `contours`, lines are at half of a map's largest value.

    Args:
      rows: (image uint8 [H, W, C], its caption, (name, probability, map [h, w]) of each class).
      scale: what the numbers are.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patheffects import withStroke

    columns = 1 + max(len(maps) for _, _, maps in rows)
    height, width, _ = rows[0][0].shape
    side = min(2.0, (WIDTH + 1) / columns)
    size = (side * columns + 0.8, (side * height / width + 0.2) * len(rows) + 0.4)
    figure, axes = subplots(len(rows), columns, squeeze=False, figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for row, (image, caption, maps) in zip(axes, rows, strict=True):
        show(row[0], image)
        row[0].set_xlabel(short(caption, side), fontsize=8)
        top = max(0.0, *(float(values.max()) for *_, values in maps))
        colors = ScalarMappable(Normalize(0, top or 1), cmap="plasma")
        for axis, (name, share, values) in zip(row[1:], maps, strict=False):
            enlarged = _enlarged(values, (height, width))
            show(axis, overlay(image, enlarged, colors))
            if contours and values.max() > 0:  # so that it is visible without colors
                line = axis.contour(enlarged, levels=[0.5 * float(values.max())], colors="white", linewidths=1)
                line.set_path_effects([withStroke(linewidth=2, foreground="black")])
            axis.set_xlabel(f"{short(name, side - 0.5)}  {share:.1%}", fontsize=8)
        for axis in row[1 + len(maps) :]:
            axis.set_axis_off()
        bar = figure.colorbar(colors, ax=list(row), fraction=0.05, pad=0.02, aspect=15)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(scale, fontsize=8)
    return save(figure, path)


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a map [h, w] at (height, width), bilinear, float32."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def overlay(image: np.ndarray, values: np.ndarray, colors: Any) -> np.ndarray:
    """Returns an image, uint8 [H, W, C], in gray under the colors of values [H, W]: from 0 to 1, [H, W, 3].

    The larger a value, the more its color covers; values below zero cover nothing.
    """
    share = 0.65 * np.clip(colors.norm(values), 0, 1)[..., None]
    grey = image.mean(axis=-1, keepdims=True) / 255
    return ((1 - share) * grey + share * colors.to_rgba(values)[..., :3]).astype(np.float32)


def plot_deconvolutions(
    maps: Sequence[tuple[str, np.ndarray, np.ndarray]], path: Path, *, title: str, columns: int
) -> Path:
    """Draws, for each map, the deconvolved signals next to the parts of the images that caused them (as in Zeiler &
    Fergus 2014, Fig. 2). Every signal has its own scale.

    Args:
      maps: (caption, signals [N, h, w, C], parts uint8 [N, h, w, C]) of each map. columns: of the grid of a map's N
        signals.
    """
    across = min(2, len(maps))
    down = -(-len(maps) // across)
    _, height, width, _ = maps[0][1].shape
    gap = max(1, width // 24)
    inside = -(-len(maps[0][1]) // columns) * height / (columns * width)
    side = WIDTH / across / 2
    figure, axes = subplots(
        down, 2 * across, squeeze=False, figsize=(WIDTH, down * (side * inside + 0.12) + 0.45), layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    for axis in axes.ravel():
        axis.set_axis_off()
    for i, (caption, signals, parts) in enumerate(maps):
        left, right = axes[i // across, 2 * (i % across) : 2 * (i % across) + 2]
        tiles = np.stack([signed(signal, float(np.abs(signal).max())) for signal in signals])
        for axis, picture in ((left, tiles), (right, parts / 255)):
            axis.set_axis_on()
            show(axis, mosaic(picture, columns, gap))
        left.set_title(caption, fontsize=8, loc="left", pad=3)
    return save(figure, path)


MARKERS = "os^vDPX*<>"  # along with ten colors, so that ten classes differ in gray, too


def plot_embedding(
    points: np.ndarray,
    labels: Sequence[str],
    path: Path,
    *,
    title: str,
    axes: tuple[str, str],
    images: np.ndarray | None = None,
) -> Path:
    """Draws points [N, 2] in the colors of their classes.

    Args:
      labels: the class of each. axes: the labels of the axes, or "" if they have no meaning.
      images: uint8 [N, H, W, C], drawn instead of the points.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    names = list(dict.fromkeys(sorted(labels, key=lambda name: natural(Path(name)))))
    figure, axis = subplots(1, figsize=(WIDTH, 5.2), layout="constrained")
    axis.set_title(title, fontsize=10)
    labels_array = np.asarray(labels)
    size = float(np.clip(6000 / len(points), 10, 45))
    colors = {name: f"C{i % 10}" for i, name in enumerate(names)}
    for i, name in enumerate(names):
        own = points[labels_array == name]
        marker = MARKERS[(i + i // 10) % len(MARKERS)] if images is None else "s"
        style = dict(color=colors[name], marker=marker, s=size, alpha=0.8, linewidths=0.3, edgecolors="white")
        axis.scatter(*own.T, label=short(name, 1.6), zorder=2, **style)
    if images is not None:
        side = float(np.clip(220 / math.sqrt(len(points)), 9, 24))  # of a picture, points
        for point, label, image in zip(points, labels, images, strict=True):
            shown = OffsetImage(
                image.repeat(3, -1) if image.shape[-1] == 1 else image, zoom=side / max(image.shape[:2]), cmap="gray"
            )
            frame = dict(edgecolor=colors[label], linewidth=1.5, boxstyle="square,pad=0.05")
            axis.add_artist(AnnotationBbox(shown, tuple(point), pad=0.05, bboxprops=frame))
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    if not any(axes):
        axis.set_xticks([])
        axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    if 1 < len(names) <= 60:
        figure.legend(loc="outside right upper", ncols=-(-len(names) // 30), fontsize=8, frameon=False, markerscale=1.3)
    return save(figure, path)
