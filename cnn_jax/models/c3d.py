"""C3D (Tran et al. 2015, "Learning Spatiotemporal Features with 3D Convolutional Networks").

Fig. 3 of the paper, clips of 16 frames of 112x112. All convolutions are 3x3x3 with padding 1:

    layers           output (time x height x width)    parameters
    conv1a,  64      16x112x112                             5,248
    pool1, 1x2x2     16x56x56
    conv2a, 128      16x56x56                             221,312
    pool2, 2x2x2     8x28x28
    conv3a-b, 256    8x28x28                          884,992 + 1,769,728
    pool3, 2x2x2     4x14x14
    conv4a-b, 512    4x14x14                        3,539,456 + 7,078,400
    pool4, 2x2x2     2x7x7
    conv5a-b, 512    2x7x7                          7,078,400 + 7,078,400
    pool5, 2x2x2     1x4x4 (the authors' code pads height and width by 1)
    fc6, fc7         4096, 4096                    33,558,528 + 16,781,312
    fc8              101 classes (UCF101)                 413,797
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool

# For each stage: channels of its convolutions, kernel (= stride) of its pool, padding of its pool.
STAGES = (
    ((64,), (1, 2, 2), (0, 0, 0)),
    ((128,), (2, 2, 2), (0, 0, 0)),
    ((256, 256), (2, 2, 2), (0, 0, 0)),
    ((512, 512), (2, 2, 2), (0, 0, 0)),
    ((512, 512), (2, 2, 2), (0, 1, 1)),
)


class C3D(Network):
    """C3D: clips [B, T, H, W, C] -> class scores [B, num_classes].

    temporal_kernel: frames that a kernel sees, odd. 1 makes it a 2-D network on every frame, whose pools alone join
      frames: depth-1 of the paper's section 3.2, which compares 1, 3, 5 and 7.
    norm: "none" (the paper), "batch" or "lrn". pool: "max", "average" or "conv".
    head, fc_sizes, dropout: see `network.Head`. width: multiplies channels and hidden units.

    Raises:
      UserError: a field has an impossible value, or the clip is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 101,
        input_shape: Sequence[int] = (16, 112, 112, 3),
        temporal_kernel: int = 3,
        pool: str = "max",
        activation: str = "relu",
        norm: str = "none",
        norm_decay: float = 0.9,
        head: str = "fc",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check(
            temporal_kernel >= 1 and temporal_kernel % 2 == 1,
            f"temporal_kernel is {temporal_kernel}, but must be odd: an even one cannot keep the number of frames",
        )
        check(
            len(input_shape) == 4,
            f"the input has the shape {tuple(input_shape)}, but C3D takes clips: [time, height, width, channels]",
        )
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        kernel, padding = (temporal_kernel, 3, 3), (temporal_kernel // 2, 1, 1)
        block = partial(ConvBlock, norm=norm, norm_decay=norm_decay, activation=activation, **options)
        before = input_shape[-1]
        for i, (channels, size, pad) in enumerate(STAGES, start=1):
            for letter, maps in zip("ab", channels, strict=False):
                after = scaled(maps, width)
                self.append(f"conv{i}{letter}", block(before, after, kernel, 1, padding))
                before = after
            self.append(f"pool{i}", make_pool(pool, before, size, size, pad, **options))
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
