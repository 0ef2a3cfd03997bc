"""The layers of the original LeNet-5 (LeCun et al. 1998, section II.B) that later networks do not have."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnn_jax.nn import cpu
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import InitKeys, get_init
from cnn_jax.nn.windows import check_fits

# Table I: the maps of S2 that each of the 16 maps of C3 sees. 60 of 96 pairs are connected.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# The codes of the ten classes: 7x12 bitmaps of the digits, drawn for this project in the manner of the paper's Fig. 3,
# whose own bitmaps are a picture only. "#" is +1, "." is -1.
BITMAPS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...#...  ..###..  .#####.  .....#.  #######  ...##..  #######  ..###..  ..###..
.#...#.  ..##...  .#...#.  #.....#  ....##.  #......  ..#....  ......#  .#...#.  .#...#.
#.....#  .#.#...  #.....#  ......#  ...#.#.  #......  .#.....  .....#.  #.....#  #.....#
#.....#  ...#...  ......#  ......#  ..#..#.  #......  #......  .....#.  .#...#.  #.....#
#.....#  ...#...  .....#.  ..####.  .#...#.  ######.  #.###..  ....#..  ..###..  .#...##
#.....#  ...#...  ....#..  ......#  #....#.  ......#  ##...#.  ....#..  .#...#.  ..###.#
#.....#  ...#...  ...#...  ......#  #######  ......#  #.....#  ...#...  #.....#  ......#
#.....#  ...#...  ..#....  ......#  .....#.  ......#  #.....#  ...#...  #.....#  .....#.
.#...#.  ...#...  .#.....  #.....#  .....#.  #....#.  .#...#.  ..#....  .#...#.  ....#..
..###..  .#####.  #######  .#####.  .....#.  .####..  ..###..  ..#....  ..###..  .##....
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""
ROWS = [line.split() for line in BITMAPS.split("\n") if line]
# [10, 84], each row of a bitmap after the other.
CODES = np.array([[1.0 if c == "#" else -1.0 for row in ROWS for c in row[digit]] for digit in range(10)], np.float32)


class Subsampling(nnx.Module):
    """The sum over windows of 2x2, times a trainable coefficient of each map, plus a bias: [B, H, W, C] -> half sizes.

    A rest of one row or column is left out.
    """

    def __init__(self, channels: int, *, init: str, dtype: Any = None, rngs: InitKeys):
        self.kernel_size, self.pads, self.dtype = (2, 2), (0, 0), dtype
        # A unit has 4 inputs, which share one weight.
        self.coefficient = nnx.Param(get_init(init)(rngs.params(), (2, 2, 1, channels))[0, 0, 0])
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape)
        coefficient, bias = (v[...].astype(self.dtype or x.dtype) for v in (self.coefficient, self.bias))
        total = lax.reduce_window(x.astype(jnp.float32), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return emit(self, x, total.astype(x.dtype) * coefficient + bias)

    def describe(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
        """Returns (kind, detail, macs) for the layer table."""
        return "pool", "sum 2x2/2, trainable", 0


class TableConv(nnx.Module):
    """A 5x5 convolution whose output maps see the input maps of `table` only: [B, H, W, C_in] -> [B, H-4, W-4, C_out].

    The weights of pairs that are not connected do not exist: the kernel is [5, 5, number of pairs].
    """

    def __init__(
        self, in_channels: int, table: Sequence[Sequence[int]], *, init: str, dtype: Any = None, rngs: InitKeys
    ):
        self.pairs = tuple((i, o) for o, inputs in enumerate(table) for i in inputs)
        self.shape = (5, 5, in_channels, len(table))
        self.kernel_size, self.pads, self.dtype = (5, 5), (0, 0), dtype
        # Each output map is initialised by its own fan-in.
        shapes = [(5, 5, len(inputs), len(table)) for inputs in table]
        kernels = [get_init(init)(rngs.params(), shape)[..., o] for o, shape in enumerate(shapes)]
        self.kernel = nnx.Param(jnp.concatenate(kernels, axis=-1))
        self.bias = nnx.Param(jnp.zeros(len(table)))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape)
        y, kernel, bias = (v.astype(self.dtype or x.dtype) for v in (x, self.kernel[...], self.bias[...]))
        inputs, outputs = np.transpose(self.pairs)
        dense = jnp.zeros(self.shape, kernel.dtype).at[:, :, inputs, outputs].set(kernel)
        layout = ("NHWC", "HWIO", "NHWC")
        y = cpu.conv_general_dilated(y, dense, (1, 1), ((0, 0), (0, 0)), dimension_numbers=layout)
        return emit(self, x, y + bias)

    def describe(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
        """Returns (kind, detail, macs) for the layer table."""
        pairs = len(self.pairs)
        detail = f"5x5/1, pad 0, {pairs} of {self.shape[2] * self.shape[3]} pairs"
        return "conv", detail, pairs * 25 * math.prod(out_shape[:-1])


class RadialBasis(nnx.Module):
    """Minus the squared Euclidean distance to each class's code, [B, 84] -> [B, num_classes], in float32.

    The codes are fixed. With the cross-entropy of the softmax of these scores, the loss is the paper's eq. 9 without
    its constant j: the distance to the right class, plus the log of the sum of exp(-distance) over all classes.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def __call__(self, x: jax.Array) -> jax.Array:
        differences = x.astype(jnp.float32)[:, None] - CODES[: self.num_classes]
        return emit(self, x, -jnp.square(differences).sum(axis=-1))

    def describe(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
        """Returns (kind, detail, macs) for the layer table."""
        return "distance", f"to {self.num_classes} fixed codes", 0
