"""Convolution and pooling of single arrays by the layers of the networks, and functions that show the results."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.display import plots
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv
from cnn_jax.nn.pooling import Pool

Draw = Callable[[Path], Any]


def convolve(image: Any, *filters: Any, stride: int = 1, padding: int = 0, dilation: int = 1) -> np.ndarray:
    """Returns the maps of an image under filters, as a convolution layer without biases makes them.

    Args:
      image: [*spatial] or [*spatial, C]. filters: each [*kernel] or [*kernel, C], with the axes of the image.

    Returns:
      [*spatial'] for one filter, [*spatial', number of filters] for several.

    Raises:
      UserError: a filter is larger than its padded image.
    """
    image, kernels = np.asarray(image, np.float32), [np.asarray(one, np.float32) for one in filters]
    has_channels = image.ndim == kernels[0].ndim and kernels[0].shape[-1] == image.shape[-1] and image.ndim > 2
    if not has_channels:
        image, kernels = image[..., None], [kernel[..., None] for kernel in kernels]
    kernel = np.stack(kernels, axis=-1)
    conv = Conv(
        *(kernel.shape[-2], kernel.shape[-1], kernel.shape[:-2], stride, padding),
        dilation=dilation,
        bias=False,
        init="he_fan_in",
        rngs=InitKeys(jax.random.key(0)),
    )
    conv.kernel[...] = jax.numpy.asarray(kernel)
    maps = np.asarray(conv(image[None]))[0]
    return maps[..., 0] if len(filters) == 1 else maps


def pool(image: Any, kind: str, size: int, stride: int, *, ceil: bool = False) -> np.ndarray:
    """Returns the pooled image [*spatial'] of an image [*spatial]; `kind` is "max" or "average"."""
    image = np.asarray(image, np.float32)
    layer = Pool(kind, (size,) * image.ndim, stride, ceil=ceil)
    return np.asarray(layer(image[None, ..., None]))[0, ..., 0]


def text(array: Any, digits: int = 0) -> str:
    """Returns a map [H, W] as lines of numbers, aligned."""
    cells = [[f"{value + 0.0:.{digits}f}" for value in row] for row in np.atleast_2d(np.asarray(array, float))]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join("  ".join(cell.rjust(width) for cell in row) for row in cells)


def picture(maps: dict[str, Any], title: str, *, numbers: bool = True) -> Any:
    """Returns a figure with maps [H, W] side by side and their numbers; blue is negative, red is positive."""
    shapes = [np.shape(values) for values in maps.values()]
    widths = [min(6.0, max(2.2, 2.6 * columns / rows)) for rows, columns in shapes]  # inches
    height = 0.4 + max(width * rows / columns for width, (rows, columns) in zip(widths, shapes, strict=True))
    figure, axes = plots.subplots(
        1, len(maps), squeeze=False, figsize=(sum(widths), height), gridspec_kw=dict(width_ratios=widths)
    )
    figure.suptitle(title, fontsize=11)
    for axis, (name, values) in zip(axes[0], maps.items(), strict=True):
        values = np.asarray(values, float)
        largest = max(1e-9, np.abs(values).max())
        axis.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axis.set_title(name, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        for (row, column), value in np.ndenumerate(values) if numbers else ():
            color = "white" if abs(value) > 0.6 * largest else "black"
            axis.text(column, row, f"{value + 0.0:.3g}", ha="center", va="center", fontsize=7, color=color)
    return figure


def draw(maps: dict[str, Any], title: str, *, numbers: bool = True) -> Draw:
    """Returns a function that draws maps [H, W] to a PNG file, as `picture` does."""
    return lambda path: plots.save(picture(maps, title, numbers=numbers), path)


def call(run: Callable[[], Draw], doc: str | None, argv: Sequence[str] | None = None) -> None:
    """Runs an example, which prints its results and returns what to draw; --plot=FILE.png draws it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG file for the picture")
    given = parser.parse_args(argv)
    drawn = run()
    if given.plot:
        drawn(given.plot)
        print(f"\n{given.plot}: drawn")
