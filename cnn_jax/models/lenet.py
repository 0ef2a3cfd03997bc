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

from collections.abc import Sequence
from functools import partial
from typing import Any

from cnn_jax.core.errors import check, check_choice
from cnn_jax.models.lenet_1998 import CODES, CONNECTIONS, RadialBasis, Subsampling, TableConv
from cnn_jax.nn import windows
from cnn_jax.nn.init import InitKeys, get_activation, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool


class LeNet5(Network):
    """LeNet-5: images [B, H, W, C] -> class scores [B, num_classes].

    padding: of the first convolution: 2 for 28x28 images, 0 for 32x32 (both have 61,706 parameters with one channel).
    activation: "scaled_tanh" as in 1998, "tanh", the same without its constants, "sigmoid" as in many lectures, or
      "relu".
    norm: "none", "batch" or "lrn", in every convolution.
    kernel_plan: "single", or "stacked": two 3x3 convolutions in the place of each 5x5.
    pool: "average", "max", "conv" (strided convolution), or "trainable": the sum, times a coefficient, plus a bias,
      then the activation.
    connections: "full", or "table": maps of the second convolution see the maps of Table I only (width 1).
    output: "linear", or "rbf": minus the squared distance to fixed codes (head "fc", width 1, at most 10 classes).
    c5: "linear", or "conv": the same layer as a 5x5 convolution, which slides over larger images.
    head: "fc" (the paper's), "flatten", "gap" or "conv"; without "fc" there is no F6, and no C5 but as a convolution.
    width: multiplies the number of maps and hidden units.

    Raises:
      UserError: a field has an impossible value, fields exclude one another, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (28, 28, 1),
        padding: int = 2,
        activation: str = "tanh",
        pool: str = "average",
        norm: str = "none",
        norm_decay: float = 0.9,
        kernel_plan: str = "single",
        connections: str = "full",
        output: str = "linear",
        c5: str = "linear",
        head: str = "fc",
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "glorot_uniform",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("pool", pool, ("max", "average", "conv", "trainable"))
        check_choice("connections", connections, ("full", "table"))
        check_choice("output", output, ("linear", "rbf"))
        check_choice("c5", c5, ("linear", "conv"))
        table = connections == "table"
        check(
            not table or (norm == "none" and kernel_plan == "single"),
            f"connections is 'table', one 5x5 convolution without normalisation, but norm is {norm!r} and kernel_plan "
            f"{kernel_plan!r}: use norm='none' and kernel_plan='single', or connections='full'",
        )
        check(
            not table or width == 1,
            f"connections is 'table', which joins 6 maps with 16, but width is {width}: use width=1 or "
            "connections='full'",
        )
        check(
            output == "linear" or (head == "fc" and width == 1 and num_classes <= len(CODES)),
            f"output is 'rbf', which compares the paper's 84 units with the codes of {len(CODES)} digits, but head is "
            f"{head!r}, width {width} and num_classes {num_classes}: use head='fc', width=1 and at most {len(CODES)} "
            "classes, or output='linear'",
        )
        maps1, maps2, units5 = (scaled(n, width) for n in (6, 16, 120))
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        block = partial(ConvBlock, norm=norm, norm_decay=norm_decay, activation=activation, **options)

        before = input_shape[-1]
        for i, (maps, pads) in enumerate(((maps1, padding), (maps2, 0)), start=1):
            if table and i == 2:
                self.append("conv2", TableConv(before, CONNECTIONS, **options))
                self.append("activation2", get_activation(activation))
            else:
                self.append_row(f"conv{i}", block, before, maps, windows.kernel_plan(kernel_plan, 5, 1, pads))
            before = maps
            if pool == "trainable":
                self.append(f"pool{i}", Subsampling(maps, **options))
                self.append(f"pool{i}_activation", get_activation(activation))
            else:
                self.append(f"pool{i}", make_pool(pool, maps, 2, 2, **options))
        if c5 == "conv":
            self.append("conv3", block(maps2, units5, 5))
        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=(84,) if c5 == "conv" else (120, 84),
            width=width,
            dropout=dropout,
            activation=activation,
            classifier_init=init,
            **options,
        )
        if output == "rbf":
            self.head.classifier = RadialBasis(num_classes)  # pyright: ignore[reportAttributeAccessIssue]


lenet5_1998 = partial(
    LeNet5,
    input_shape=(32, 32, 1),
    padding=0,
    activation="scaled_tanh",
    pool="trainable",
    connections="table",
    output="rbf",
    c5="conv",
    init="lecun_uniform_1998",
)
