"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", Fig. 2).

`lenet5` is the form that is taught today:

layer   28x28 input, pad 2    32x32 input, pad 0    parameters
conv1   5x5,  6 maps, 28x28   5x5,  6 maps, 28x28          156
pool1   2x2/2,        14x14   2x2/2,        14x14
conv2   5x5, 16 maps, 10x10   5x5, 16 maps, 10x10        2,416
pool2   2x2/2,          5x5   2x2/2,          5x5
C5      120 units (linear on 400 features, or the same numbers as a 5x5 convolution)  48,120
F6      84 units                                        10,164
output  10 classes                                         850

`lenet5_1998` is the paper's (section II.B), 32x32 input, scaled tanh after every layer up to F6:

layer                                          parameters   connections
C1      5x5, 6 maps, 28x28                            156       122,304
S2      2x2 sum, times a coefficient, plus a bias      12         5,880
C3      5x5, 16 maps, connected by Table I          1,516       151,600
S4      2x2, as S2                                     32         2,000
C5      5x5, 120 maps, 1x1                         48,120        48,120
F6      84 units                                   10,164        10,164
output  squared distances to 10 fixed codes of 84 = 7x12 numbers, no parameters
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnn_jax.core.errors import check
from cnn_jax.core.rules import Choice, fixed, option
from cnn_jax.nn import cpu, windows
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import ACTIVATIONS, InitKeys, get_init
from cnn_jax.nn.layers import add_bias, wide
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import POOLS
from cnn_jax.nn.windows import check_fits

# ---------------------------------------------------------------- the layers of 1998 (section II.B)

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

    A leftover row or column is dropped.
    """

    def __init__(self, channels: int, *, init: str, dtype: Any = None, rngs: InitKeys):
        self.kernel_size, self.pads, self.dtype = (2, 2), (0, 0), dtype
        # A unit has 4 inputs, which share one weight.
        self.coefficient = nnx.Param(get_init(init)(rngs.params(), (2, 2, 1, channels))[0, 0, 0])
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape)
        total = lax.reduce_window(wide(x), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return emit(self, x, (total * self.coefficient[...] + self.bias[...]).astype(self.dtype or x.dtype))

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
        # Each output map is initialized by its own fan-in.
        shapes = [(5, 5, len(inputs), len(table)) for inputs in table]
        kernels = [get_init(init)(rngs.params(), shape)[..., o] for o, shape in enumerate(shapes)]
        self.kernel = nnx.Param(jnp.concatenate(kernels, axis=-1))
        self.bias = nnx.Param(jnp.zeros(len(table)))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape)
        y, kernel = (v.astype(self.dtype or x.dtype) for v in (x, self.kernel[...]))
        inputs, outputs = np.transpose(self.pairs)
        dense = jnp.zeros(self.shape, kernel.dtype).at[:, :, inputs, outputs].set(kernel)
        layout = ("NHWC", "HWIO", "NHWC")
        y = cpu.conv_general_dilated(y, dense, (1, 1), ((0, 0), (0, 0)), dimension_numbers=layout)
        return emit(self, x, add_bias(y, self.bias))

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


# ---------------------------------------------------------------- the network


class LeNet5(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]."""

    padding: int = option(
        2, "Of the first convolution: 2 for 28x28 images, 0 for 32x32. Both have 61,706 parameters with one channel."
    )
    kernel_plan: str = option(
        "single", "stacked: two 3x3 convolutions replace each 5x5.", Choice(*windows.KERNEL_PLANS)
    )
    pool: str = option(
        "average",
        "conv: a strided convolution; trainable: the sum, times a coefficient, plus a bias, then the activation.",
        Choice(*POOLS, "trainable"),
    )
    activation: str = option("tanh", "Activation function; scaled_tanh is that of 1998.", Choice(*ACTIVATIONS))
    connections: str = option(
        "full", "table: maps of the second convolution see the maps of Table I only (width 1).", Choice("full", "table")
    )
    output: str = option(
        "linear",
        "rbf: minus the squared distance to fixed codes (head=fc, width 1, at most 10 classes).",
        Choice("linear", "rbf"),
    )
    c5: str = option(
        "linear",
        "conv: C5 as a 5x5 convolution: the same layer, but it slides over larger images and other heads keep it.",
        Choice("linear", "conv"),
    )
    num_classes: int = 10
    input_shape: tuple[int, ...] = (28, 28, 1)
    fc_sizes: tuple[int, ...] = fixed(())  # C5 and F6
    init: str = "glorot_uniform"

    def check(self) -> None:
        table = self.connections == "table"
        check(
            not table or (self.norm == "none" and self.kernel_plan == "single"),
            f"connections is 'table', one 5x5 convolution without normalization, but norm is {self.norm!r} and "
            f"kernel_plan {self.kernel_plan!r}: use norm='none' and kernel_plan='single', or connections='full'",
        )
        check(
            not table or self.width == 1,
            f"connections is 'table', which joins 6 maps with 16, but width is {self.width}: use width=1 or "
            "connections='full'",
        )
        check(
            self.output == "linear" or (self.head == "fc" and self.width == 1 and self.num_classes <= len(CODES)),
            f"output is 'rbf', which compares the paper's 84 units with the codes of {len(CODES)} digits, but head is "
            f"{self.head!r}, width {self.width} and num_classes {self.num_classes}: use head='fc', width=1 and at most "
            f"{len(CODES)} classes, or output='linear'",
        )

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for i, (maps, padding) in enumerate(((6, self.padding), (16, 0)), start=1):
            if self.connections == "table" and i == 2:
                yield "conv2", TableConv(make.channels, CONNECTIONS, **make.options)
                make.channels = len(CONNECTIONS)
                yield "activation2", make.activation
            else:
                yield from make.blocks(f"conv{i}", maps, windows.kernel_plan(self.kernel_plan, 5, 1, padding))
            if self.pool == "trainable":
                yield f"pool{i}", Subsampling(make.channels, **make.options)
                yield f"pool{i}_activation", make.activation
            else:
                yield f"pool{i}", make.pool(self.pool, 2, 2)
        if self.c5 == "conv":
            yield "conv3", make.block(120, 5)

    def head_options(self) -> dict[str, Any]:
        return dict(fc_sizes=(84,) if self.c5 == "conv" else (120, 84))

    def build(self, rngs: InitKeys) -> Network:
        network = super().build(rngs)
        if self.output == "rbf" and self.num_classes:
            network.head.classifier = RadialBasis(self.num_classes)  # pyright: ignore[reportAttributeAccessIssue]
        return network


class LeNet1998(LeNet5):
    """The paper's network (section II.B)."""

    input_shape: tuple[int, ...] = (32, 32, 1)
    padding: int = 0
    activation: str = "scaled_tanh"
    pool: str = "trainable"
    connections: str = "table"
    output: str = "rbf"
    c5: str = "conv"
    init: str = "lecun_uniform_1998"
