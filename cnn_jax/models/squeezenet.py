"""SqueezeNet (Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters").

A Fire module squeezes with 1x1 convolutions and expands with 1x1 and 3x3 ones side by side (section 3.2). Table 1 of
the paper (1.0) and the authors' later network (1.1), which computes 2.3 times less; outputs for images of 224x224 (the
paper's sizes are those of 227x227):

              1.0                                          1.1
              output    squeeze  expand 1x1  expand 3x3    output    squeeze  expand 1x1  expand 3x3
    conv1     109x109   7x7/2, 96                          111x111   3x3/2, 64
    pool      54x54     3x3/2 max                          55x55     3x3/2 max
    fire2     54x54     16       64          64            55x55     16       64          64
    fire3     54x54     16       64          64            55x55     16       64          64
    pool                                                   27x27     3x3/2 max
    fire4     54x54     32       128         128           27x27     32       128         128
    pool      27x27     3x3/2 max
    fire5     27x27     32       128         128           27x27     32       128         128
    pool                                                   13x13     3x3/2 max
    fire6     27x27     48       192         192           13x13     48       192         192
    fire7     27x27     48       192         192           13x13     48       192         192
    fire8     27x27     64       256         256           13x13     64       256         256
    pool      13x13     3x3/2 max
    fire9     13x13     64       256         256           13x13     64       256         256
    conv10    13x13     dropout (50%), 1x1, one map for each class, then global average pooling

Pools round their output sizes up, so the last window may reach past the edge (Caffe's rule).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.rules import Choice, option
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.layers import ConvBlock

# (squeeze 1x1, expand 1x1, expand 3x3) of both versions.
FIRES = {
    "fire2": (16, 64, 64),
    "fire3": (16, 64, 64),
    "fire4": (32, 128, 128),
    "fire5": (32, 128, 128),
    "fire6": (48, 192, 192),
    "fire7": (48, 192, 192),
    "fire8": (64, 256, 256),
    "fire9": (64, 256, 256),
}
# (kernel of conv1, its channels, the layers that a max pooling follows)
VERSIONS = {
    "1.0": (7, 96, ("conv1", "fire4", "fire8")),
    "1.1": (3, 64, ("conv1", "fire3", "fire5")),
}
BYPASSES = ("none", "simple", "complex")


class Fire(nnx.Module):
    """Squeeze, then expand twice, concatenated: [B, H, W, C] -> [B, H, W, expand 1x1 + expand 3x3].

    row: of `FIRES`. reduction=False expands the input itself.
    bypass: see `SqueezeNet`; the identity where shapes agree, else nothing or a projection.
    """

    def __init__(
        self, in_channels: int, row: Sequence[int], block: Callable[..., ConvBlock], *, reduction: bool, bypass: str
    ):
        squeeze, expand1x1, expand3x3 = row
        self.squeeze = block(in_channels, squeeze, 1) if reduction else None
        channels = squeeze if reduction else in_channels
        self.expand1x1 = block(channels, expand1x1, 1)
        self.expand3x3 = block(channels, expand3x3, 3, 1, 1)
        self.out_channels = expand1x1 + expand3x3
        same = in_channels == self.out_channels
        self.adds = bypass == "complex" or (bypass == "simple" and same)
        projects = self.adds and not same
        self.projection = block(in_channels, self.out_channels, 1, activation="linear") if projects else None

    def __call__(self, x: jax.Array) -> jax.Array:
        squeezed = x if self.squeeze is None else self.squeeze(x)
        y = jnp.concatenate([self.expand1x1(squeezed), self.expand3x3(squeezed)], axis=-1)
        if not self.adds:
            return y
        return y + (x if self.projection is None else self.projection(x))


class SqueezeNet(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]. The classifier's kernel starts as N(0, 0.01)."""

    version: str = option("1.0", "1.0, Table 1 of the paper, or 1.1, the authors' later network.", Choice(*VERSIONS))
    bypass: str = option(
        "none",
        "simple: the input is added to the output of Fire modules 3, 5, 7 and 9; complex: also to the others', through "
        "a 1x1 convolution (section 6, Fig. 2).",
        Choice(*BYPASSES),
    )
    reduction: bool = option(True, "False: no squeeze layers; the Fire modules expand their input.")
    overlapping: bool = option(True, "Pooling windows of 3x3 with stride 2; False: 2x2.")
    head: str = "conv"
    dropout: float = 0.5
    init: str = "glorot_uniform"

    bias_before_norm = False

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        kernel, maps, pooled = VERSIONS[self.version]
        yield (last := "conv1"), make.block(maps, kernel, 2, 0)
        for name, row in FIRES.items():
            if last in pooled:
                number = last.removeprefix("conv").removeprefix("fire")
                yield f"pool{number}", make.pool(self.pool, 3 if self.overlapping else 2, 2, ceil=True)
            row = [make.scaled(n) for n in row]
            fire = Fire(make.channels, row, make.ConvBlock, reduction=self.reduction, bypass=self.bypass)
            make.channels = fire.out_channels
            yield (last := name), fire

    def head_options(self) -> dict[str, Any]:
        return dict(classifier_init="normal_0.01")
