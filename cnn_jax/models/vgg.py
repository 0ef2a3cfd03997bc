"""VGG (Simonyan, Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition").

Table 1 of the paper: 3x3 convolutions with padding 1 (1x1 in the last of three in C), each block followed by a 2x2 max
pool with stride 2.

    block     maps, output     A, A-LRN   B        C           D           E
    conv1     64,  224x224     3          3 3      3 3         3 3         3 3
    conv2     128, 112x112     3          3 3      3 3         3 3         3 3
    conv3     256, 56x56       3 3        3 3      3 3 1       3 3 3       3 3 3 3
    conv4     512, 28x28       3 3        3 3      3 3 1       3 3 3       3 3 3 3
    conv5     512, 14x14       3 3        3 3      3 3 1       3 3 3       3 3 3 3
    head      4096, 4096, 1000 linear
    name                       vgg11,     vgg13    vgg16c      vgg16       vgg19
                               vgg11_lrn
    parameters, millions       132.9      133.0    133.6       138.4       143.7     (Table 2: 133, 133, 134, 138, 144)

A-LRN is A with one local response normalization, after the first convolution: norm="lrn".
"""

from collections.abc import Iterator, Sequence
from typing import Any

from cnn_jax.core.rules import Choice, option
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.layers import NORMS

MAPS = (64, 128, 256, 512, 512)  # of the five blocks
# configuration: the kernels of each block
CONFIGURATIONS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


def one_kernel(kernels: Sequence[int]) -> tuple[int, ...]:
    """Returns the kernels of a block with its 3x3 convolutions replaced by one of the same receptive field.

    Two become one 5x5, three one 7x7 (section 2.3), four one 9x9; a 1x1 stays, and so does a single 3x3.
    """
    return (1 + 2 * kernels.count(3), *(kernel for kernel in kernels if kernel == 1))


class VGG(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]; every side needs 32 pixels.

    The paper started the deep nets from a trained A, and found afterwards that Glorot's initialization makes this
    unnecessary (section 3.1): so that is the default.
    """

    configuration: str = option("D", "Column of Table 1.", Choice(*CONFIGURATIONS))
    kernel_plan: str = option(
        "stacked",
        "stacked 3x3 convolutions, or single: one larger kernel with the receptive field of each stack. B is then the "
        "net of five 5x5 convolutions of section 4.1.",
        Choice("stacked", "single"),
    )
    norm: str = option(
        "none",
        "batch, group, layer: after every convolution (batch is torchvision's vgg*_bn; biases stay); lrn: after the "
        "first.",
        Choice(*NORMS),
    )
    dropout: float = 0.5
    init: str = "glorot_uniform"

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for b, (maps, kernels) in enumerate(zip(MAPS, CONFIGURATIONS[self.configuration], strict=True), start=1):
            for i, kernel in enumerate(kernels if self.kernel_plan == "stacked" else one_kernel(kernels), start=1):
                norm = "none" if self.norm == "lrn" and (b, i) != (1, 1) else self.norm
                yield f"conv{b}_{i}", make.block(maps, kernel, 1, kernel // 2, norm=norm)
            yield f"pool{b}", make.pool(self.pool, 2, 2)


class VGGWithLRN(VGG):
    """A-LRN, a column of Table 1 with `configuration="A"`."""

    norm: str = "lrn"
