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

A-LRN is A with one local response normalisation, after the first convolution: norm="lrn".
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cnn_jax.core.errors import check_choice
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import NORMS, ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool

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


class VGG(Network):
    """VGG: images [B, H, W, C] -> class scores [B, num_classes].

    configuration: "A" to "E", a column of Table 1.
    kernel_plan: "stacked" 3x3 convolutions, or "single": one larger kernel with the receptive field of each stack. B is
      then the net of five 5x5 convolutions that section 4.1 compares it with.
    norm: "none", "batch" after every convolution (torchvision's vgg*_bn; its biases stay), or "lrn" after the first.
    activation: one of `init.ACTIVATIONS`. pool: "max", "average" or "conv".
    head: "fc" (the paper's) with `fc_sizes`, "gap", "flatten" or "conv"; see `network.Head`, also for `dropout`.
    width: multiplies maps and hidden units. norm_decay: of BatchNorm's running averages.
    init: of the kernels. The paper started the deep nets from a trained A, and found afterwards that Glorot's
      initialisation makes this unnecessary (section 3.1): so that is the default here.

    Raises:
      UserError: a field has an impossible value, or the image is too small: every side needs 32 pixels.
    """

    def __init__(
        self,
        *,
        configuration: str,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        kernel_plan: str = "stacked",
        norm: str = "none",
        activation: str = "relu",
        pool: str = "max",
        head: str = "fc",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "glorot_uniform",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("configuration", configuration, CONFIGURATIONS)
        check_choice("kernel_plan", kernel_plan, ("stacked", "single"))
        check_choice("norm", norm, NORMS)
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)

        channels = input_shape[-1]
        for b, (maps, kernels) in enumerate(zip(MAPS, CONFIGURATIONS[configuration], strict=True), start=1):
            for i, kernel in enumerate(kernels if kernel_plan == "stacked" else one_kernel(kernels), start=1):
                before, channels = channels, scaled(maps, width)
                block = ConvBlock(
                    before,
                    channels,
                    kernel,
                    1,
                    kernel // 2,
                    norm="none" if norm == "lrn" and (b, i) != (1, 1) else norm,
                    norm_decay=norm_decay,
                    activation=activation,
                    **options,
                )
                self.append(f"conv{b}_{i}", block)
            self.append(f"pool{b}", make_pool(pool, channels, 2, 2, **options))

        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout,
            activation=activation,
            classifier_init=init,
            **options,
        )


vgg11, vgg13, vgg16c, vgg16, vgg19 = (
    partial(VGG, configuration=configuration) for configuration in ("A", "B", "C", "D", "E")
)
vgg11_lrn = partial(vgg11, norm="lrn")
