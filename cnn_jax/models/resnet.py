"""Residual networks and their plain twins (He, Zhang, Ren, Sun 2016, "Deep Residual Learning").

Table 1 of the paper (ImageNet). Each row of blocks halves the map and doubles the channels:

    layer     output    18-layer      34-layer      50-layer            101-layer           152-layer
    conv1     112x112   7x7, 64, stride 2
    conv2_x   56x56     3x3 max pool, stride 2, then blocks of 64 (bottleneck: 64, 64, 256)
              blocks    2             3             3                   3                   3
    conv3_x   28x28     2             4             4                   4                   8
    conv4_x   14x14     2             6             6                   23                  36
    conv5_x   7x7       2             3             3                   3                   3
    head      1x1       global average pool, linear

Section 4.2 (CIFAR): conv1 is 3x3, 16; then three stages of n blocks with 16, 32, 64 channels: depth 6n+2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx

from cnn_jax.errors import check, check_choice
from cnn_jax.models.layers import BatchNorm, Conv, Head, Keys, Pool, feature_shape, scaled

Plan = list[tuple[int, int, int, int]]  # one (kernel, channels, stride, groups) for each convolution of a block


def basic(channels: int, stride: int, **_: Any) -> Plan:
    """Two 3x3 convolutions (Fig. 5, left)."""
    return [(3, channels, stride, 1), (3, channels, 1, 1)]


def bottleneck(channels: int, stride: int, *, variant: str, groups: int, width_per_group: int) -> Plan:
    """1x1 down, 3x3, 1x1 up to four times the channels (Fig. 5, right).

    v1 has the stride in the first 1x1 (the paper), v1.5 in the 3x3 (fb.resnet.torch, torchvision).
    Groups and width per group are ResNeXt's and Wide-ResNet's.
    """
    first, second = (stride, 1) if variant == "v1" else (1, stride)
    inner = int(channels * width_per_group / 64) * groups
    check(
        groups > 0 and inner > 0,
        f"groups is {groups} and width_per_group {width_per_group}, which leaves {inner} channels in a bottleneck of "
        f"{channels}: use larger ones, or a larger width",
    )
    return [(1, inner, first, 1), (3, inner, second, groups), (1, 4 * channels, 1, 1)]


# depth: (block, blocks per stage)
IMAGENET = {
    18: (basic, (2, 2, 2, 2)),
    34: (basic, (3, 4, 6, 3)),
    50: (bottleneck, (3, 4, 6, 3)),
    101: (bottleneck, (3, 4, 23, 3)),
    152: (bottleneck, (3, 8, 36, 3)),
}


def table(layout: str, depth: int) -> tuple[Callable[..., Plan], tuple[int, ...], int]:
    """Returns (block, blocks per stage, channels of the first stage); raises UserError for a depth without a row."""
    check_choice("layout", layout, ("imagenet", "cifar"))
    if layout == "imagenet":
        check(depth in IMAGENET, f"depth is {depth}, but must be one of {', '.join(map(str, IMAGENET))}")
        return *IMAGENET[depth], 64
    check(
        depth >= 8 and depth % 6 == 2,
        f"depth is {depth}, but must be 6n+2 with n >= 1 (three stages of n blocks with two convolutions each): "
        f"the nearest is {max(8, 6 * round((depth - 2) / 6) + 2)}",
    )
    return basic, ((depth - 2) // 6,) * 3, 16


class Block(nnx.Module):
    """Convolutions of `plan`, each with BatchNorm, plus a shortcut; ReLU between and after the addition.

    shortcut: "A": identity, by subsampling and zero channels where shapes change; "B": a 1x1 projection where shapes
      change; "C": a projection in every block (section 3.3 and Table 3).
    residual=False drops the shortcut and leaves the rest: the plain twin.
    """

    def __init__(
        self,
        in_channels: int,
        plan: Plan,
        *,
        shortcut: str,
        residual: bool,
        zero_gamma: bool,
        norm_decay: float,
        init: str,
        dtype: Any,
        rngs: Keys,
    ):
        norm = partial(BatchNorm, decay=norm_decay, dtype=dtype, rngs=rngs)
        conv = partial(Conv, bias=False, init=init, dtype=dtype, rngs=rngs)
        channels, stride = in_channels, 1
        self.depth = len(plan)
        for i, (kernel, out_channels, step, groups) in enumerate(plan, start=1):
            last = i == self.depth
            setattr(self, f"conv{i}", conv(channels, out_channels, kernel, step, kernel // 2, groups=groups))
            setattr(self, f"norm{i}", norm(out_channels, zero_scale=zero_gamma and last))
            channels, stride = out_channels, stride * step

        self.residual = residual
        self.stride = stride
        self.new_channels = channels - in_channels
        changes = stride != 1 or self.new_channels != 0
        projects = residual and (shortcut == "C" or (shortcut == "B" and changes))
        self.shortcut_conv = conv(in_channels, channels, 1, stride) if projects else None
        self.shortcut_norm = norm(channels) if projects else None

    def shortcut(self, x: jax.Array) -> jax.Array:
        """Returns x in the shape of the block's output."""
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            return self.shortcut_norm(self.shortcut_conv(x))
        x = x[:, :: self.stride, :: self.stride]
        return jax.lax.pad(x, x.dtype.type(0), ((0, 0, 0),) * 3 + ((0, self.new_channels, 0),))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = jax.nn.relu(y)
        return jax.nn.relu(y + self.shortcut(x)) if self.residual else jax.nn.relu(y)


class ResNet(nnx.Module):
    """Residual network: images [B, H, W, C] -> class scores [B, num_classes].

    layout, depth: "imagenet" with 18, 34, 50, 101 or 152; "cifar" with any 6n+2.
    variant: "v1" or "v1.5", where the stride of a bottleneck stands; basic blocks have one form.
    shortcut: "A", "B" or "C", see `Block`; residual=False is the plain twin.
    groups, width_per_group: 32 and 4 make ResNeXt-50 32x4d, 1 and 128 Wide-ResNet-50-2 (bottlenecks only).
    head, fc_sizes, dropout: see `layers.Head`. width: multiplies all channels.
    zero_gamma: the last BatchNorm scale of each block starts at 0 (Goyal et al. 2017, section 5.1).
    norm_decay: of BatchNorm's running averages. init: of the kernels, see `layers.INITS`.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        layout: str,
        depth: int,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        variant: str = "v1.5",
        shortcut: str = "B",
        residual: bool = True,
        groups: int = 1,
        width_per_group: int = 64,
        head: str = "gap",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.0,
        width: float = 1.0,
        zero_gamma: bool = False,
        norm_decay: float = 0.9,
        init: str = "he_fan_out",
        dtype: Any = None,
        rngs: Keys,
    ):
        check_choice("variant", variant, ("v1", "v1.5"))
        check_choice("shortcut", shortcut, ("A", "B", "C"))
        block, blocks_per_stage, base = table(layout, depth)
        check(
            block is bottleneck or (groups, width_per_group) == (1, 64),
            f"groups is {groups} and width_per_group {width_per_group}, but a network of depth {depth} has basic "
            "blocks: grouped and wide forms need the bottlenecks of depth 50, 101 or 152",
        )
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        channels = scaled(base, width)
        kernel, stride = (7, 2) if layout == "imagenet" else (3, 1)
        self.conv1 = Conv(input_shape[-1], channels, kernel, stride, kernel // 2, bias=False, **options)
        self.norm1 = BatchNorm(channels, decay=norm_decay, dtype=dtype, rngs=rngs)
        self.pool1 = Pool("max", 3, 2, 1) if layout == "imagenet" else None

        self.stages = tuple(f"conv{i}_x" for i in range(2, 2 + len(blocks_per_stage)))
        for i, (name, num_blocks) in enumerate(zip(self.stages, blocks_per_stage, strict=True)):
            blocks = nnx.List([])
            for b in range(num_blocks):
                plan = block(
                    scaled(base * 2**i, width),
                    stride=2 if i > 0 and b == 0 else 1,
                    variant=variant,
                    groups=groups,
                    width_per_group=width_per_group,
                )
                blocks.append(
                    Block(
                        channels,
                        plan,
                        shortcut=shortcut,
                        residual=residual,
                        zero_gamma=zero_gamma,
                        norm_decay=norm_decay,
                        **options,
                    )
                )
                channels = plan[-1][1]
            setattr(self, name, blocks)

        self.head = Head(
            feature_shape(self, input_shape),
            num_classes,
            kind=head,
            fc_sizes=fc_sizes,
            dropout=dropout,
            classifier_init="normal_0.01",  # Goyal et al. 2017, section 5.1
            **options,
        )

    def features(self, x: jax.Array) -> jax.Array:
        """Returns the feature maps before the head, [B, H', W', C']."""
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        if self.pool1 is not None:
            x = self.pool1(x)
        for name in self.stages:
            for block in getattr(self, name):
                x = block(x)
        return x

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        return self.head(self.features(x), rngs=rngs)


resnet18, resnet34, resnet50, resnet101, resnet152 = (
    partial(ResNet, layout="imagenet", depth=depth) for depth in IMAGENET
)
cifar_resnet = partial(ResNet, layout="cifar", depth=20, num_classes=10, input_shape=(32, 32, 3), shortcut="A")
resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202 = (
    partial(cifar_resnet, depth=depth) for depth in (20, 32, 44, 56, 110, 1202)
)
