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

from collections.abc import Iterator
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.core.rules import Rule, option
from cnn_jax.nn.family import Family, LayerMaker

# For each stage: channels of its convolutions, kernel (= stride) of its pool, padding of its pool.
STAGES = (
    ((64,), (1, 2, 2), (0, 0, 0)),
    ((128,), (2, 2, 2), (0, 0, 0)),
    ((256, 256), (2, 2, 2), (0, 0, 0)),
    ((512, 512), (2, 2, 2), (0, 0, 0)),
    ((512, 512), (2, 2, 2), (0, 1, 1)),
)


class C3D(Family):
    """Clips [B, T, H, W, C] -> class scores [B, num_classes]."""

    temporal_kernel: int = option(
        3,
        "Frames that a kernel sees: 1, 3, 5 or 7 in section 3.2. 1: a 2-D network on every frame, up to the pools.",
        Rule("odd: an even one cannot keep the number of frames", lambda frames: frames >= 1 and frames % 2 == 1),
    )
    num_classes: int = 101
    input_shape: tuple[int, ...] = (16, 112, 112, 3)
    dropout: float = 0.5

    def check(self) -> None:
        check(
            len(self.input_shape) == 4,
            f"the input has the shape {self.input_shape}, but C3D takes clips: [time, height, width, channels]",
        )

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        kernel, padding = (self.temporal_kernel, 3, 3), (self.temporal_kernel // 2, 1, 1)
        for i, (channels, size, pad) in enumerate(STAGES, start=1):
            for letter, maps in zip("ab", channels, strict=False):
                yield f"conv{i}{letter}", make.block(maps, kernel, 1, padding)
            yield f"pool{i}", make.pool(self.pool, size, size, pad)
