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

Pools reach over the end where the strides leave a rest (Caffe's rule).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check_choice
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool

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


class SqueezeNet(Network):
    """SqueezeNet: images [B, H, W, C] -> class scores [B, num_classes].

    version: "1.0" or "1.1", a table above.
    bypass: "none"; "simple": the input is added to the output of Fire modules 3, 5, 7 and 9; "complex": also to the
      others', through a 1x1 convolution (section 6, Fig. 2).
    reduction: False leaves the squeeze layers out, and the Fire modules expand their input.
    pool: "max", "average" or "conv". overlapping: windows of 3x3, or of 2x2, stride 2.
    norm: "none" (the paper), "lrn", or "batch", in every convolution but the last; those have no bias with "batch".
    head: "conv" (the paper) or "gap", "flatten", "fc" with `fc_sizes`; dropout: see `network.Head`.
    width: multiplies all channels. norm_decay: of BatchNorm's running averages.
    init: of the kernels, see `init.INITS`; the last one's is N(0, 0.01).

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        version: str,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        bypass: str = "none",
        reduction: bool = True,
        pool: str = "max",
        overlapping: bool = True,
        norm: str = "none",
        activation: str = "relu",
        head: str = "conv",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "glorot_uniform",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("version", version, VERSIONS)
        check_choice("bypass", bypass, BYPASSES)
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        block = partial(
            ConvBlock, bias=norm != "batch", norm=norm, norm_decay=norm_decay, **options | dict(activation=activation)
        )
        kernel, base, pooled = VERSIONS[version]
        channels = scaled(base, width)
        self.append("conv1", block(input_shape[-1], channels, kernel, 2, 0))
        for name, row in FIRES.items():
            last = self.order[-1]
            if last in pooled:
                window = (3 if overlapping else 2, 2)
                place = last.removeprefix("conv").removeprefix("fire")
                self.append(f"pool{place}", make_pool(pool, channels, *window, ceil=True, **options))
            row = [scaled(n, width) for n in row]
            fire = Fire(channels, row, block, reduction=reduction, bypass=bypass)
            self.append(name, fire)
            channels = fire.out_channels

        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout,
            activation=activation,
            classifier_init="normal_0.01",
            **options,
        )


squeezenet1_0, squeezenet1_1 = (partial(SqueezeNet, version=version) for version in VERSIONS)
