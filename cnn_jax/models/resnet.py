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

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn import windows
from cnn_jax.nn.init import InitKeys, get_activation, scaled
from cnn_jax.nn.layers import Conv, make_norm
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool
from cnn_jax.nn.scan import Repeated

Plan = list[tuple[int, int, int, int]]  # one (kernel, channels, stride, groups) for each convolution of a block


def basic(channels: int, stride: int, **_: Any) -> Plan:
    """Two 3x3 convolutions (Fig. 5, left)."""
    return [(3, channels, stride, 1), (3, channels, 1, 1)]


def bottleneck(channels: int, stride: int, *, variant: str, groups: int, width_per_group: int, reduction: bool) -> Plan:
    """1x1 down, 3x3, 1x1 up to four times the channels (Fig. 5, right).

    v1 has the stride in the first 1x1 (the paper), v1.5 in the 3x3 (fb.resnet.torch, torchvision).
    Groups and width per group are ResNeXt's and Wide-ResNet's. reduction=False leaves the first 1x1 out.
    """
    first, second = (stride, 1) if variant == "v1" else (1, stride)
    inner = int(channels * width_per_group / 64) * groups
    check(
        groups > 0 and inner > 0,
        f"groups is {groups} and width_per_group {width_per_group}, which leaves {inner} channels in a bottleneck of "
        f"{channels}: use larger ones, or a larger width",
    )
    plan = [(1, inner, first, 1), (3, inner, second, groups), (1, 4 * channels, 1, 1)]
    return plan if reduction else plan[1:]


# A stage of more blocks has its first, then the others, which are equal, as `Repeated`. ResNet-1202 has 200.
UNROLLED = 40
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
    """Convolutions of `plan`, each with normalisation, plus a shortcut; activation between and after the addition.

    shortcut: "A": identity, by subsampling and zero channels where shapes change; "B": a 1x1 projection where shapes
      change; "C": a projection in every block (section 3.3 and Table 3).
    residual=False drops the shortcut and leaves the rest: the plain twin.
    conv, norm: make a layer; norm("none") is None.
    """

    def __init__(
        self,
        in_channels: int,
        plan: Plan,
        *,
        conv: Callable[..., Conv],
        norm: Callable[..., Any],
        activation: str,
        shortcut: str,
        residual: bool,
        zero_gamma: bool,
    ):
        self.activation = get_activation(activation)
        channels, stride = in_channels, 1
        self.depth = len(plan)
        for i, (kernel, out_channels, step, groups) in enumerate(plan, start=1):
            setattr(self, f"conv{i}", conv(channels, out_channels, kernel, step, kernel // 2, groups=groups))
            setattr(self, f"norm{i}", norm(out_channels, zero_scale=zero_gamma and i == self.depth))
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
        if self.shortcut_conv is not None:
            return normalized(self.shortcut_norm, self.shortcut_conv(x))
        x = x[:, :: self.stride, :: self.stride]
        return jax.lax.pad(x, x.dtype.type(0), ((0, 0, 0),) * 3 + ((0, self.new_channels, 0),))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i in range(1, self.depth + 1):
            y = normalized(getattr(self, f"norm{i}"), getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = self.activation(y)
        return self.activation(y + self.shortcut(x) if self.residual else y)


def normalized(norm: Any, x: jax.Array) -> jax.Array:
    """Returns what a normalisation makes of x; None leaves x."""
    return x if norm is None else norm(x)


class Stage(nnx.List):
    """Blocks in a row."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self:
            x = block(x)
        return x


class ResNet(Network):
    """Residual network: images [B, H, W, C] -> class scores [B, num_classes].

    layout, depth: "imagenet" with 18, 34, 50, 101 or 152; "cifar" with any 6n+2.
    variant: "v1" or "v1.5", where the stride of a bottleneck stands; basic blocks have one form.
    shortcut: "A", "B" or "C", see `Block`; residual=False is the plain twin.
    groups, width_per_group: 32 and 4 make ResNeXt-50 32x4d, 1 and 128 Wide-ResNet-50-2 (bottlenecks only).
    reduction: False leaves the first 1x1 convolution of the bottlenecks out: their 3x3 sees all channels.
    kernel_plan: of the stem: "single", or "stacked": three 3x3 convolutions in the place of the 7x7. pool: of the stem:
      "max", "average" or "conv"; overlapping: its window is 3x3, or 2x2. (The networks for small images begin with one
      3x3 convolution and have no pool.)
    norm: "batch", or "none", with which the convolutions have biases. activation: see `init.ACTIVATIONS`.
    head, fc_sizes, dropout: see `network.Head`. width: multiplies all channels and hidden units.
    zero_gamma: the last BatchNorm scale of each block starts at 0 (Goyal et al. 2017, section 5.1).
    norm_decay: of BatchNorm's running averages. init: of the kernels, see `init.INITS`.

    Raises:
      UserError: a field has an impossible value, fields exclude one another, or the image is too small.
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
        reduction: bool = True,
        kernel_plan: str = "single",
        pool: str = "max",
        overlapping: bool = True,
        norm: str = "batch",
        activation: str = "relu",
        head: str = "gap",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.0,
        width: float = 1.0,
        zero_gamma: bool = False,
        norm_decay: float = 0.9,
        init: str = "he_fan_out",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("variant", variant, ("v1", "v1.5"))
        check_choice("shortcut", shortcut, ("A", "B", "C"))
        check_choice("norm", norm, ("batch", "none"))
        block, blocks_per_stage, base = table(layout, depth)
        check(
            block is bottleneck or (groups, width_per_group, reduction) == (1, 64, True),
            f"groups is {groups}, width_per_group {width_per_group} and reduction {reduction}, but a network of depth "
            f"{depth} has basic blocks: grouped, wide and unreduced forms need the bottlenecks of depth 50, 101 or 152",
        )
        check(
            layout == "imagenet" or (kernel_plan, pool, overlapping) == ("single", "max", True),
            f"kernel_plan is {kernel_plan!r}, pool {pool!r} and overlapping {overlapping}, but the network for small "
            "images begins with one 3x3 convolution and has no pool: leave the three at their defaults",
        )
        check(
            reduction or variant == "v1.5",
            "reduction is False, but variant 'v1' has its stride in the reduction: use variant='v1.5'",
        )
        check(
            norm == "batch" or not zero_gamma,
            f"zero_gamma is True, which is about BatchNorm's scales, but norm is {norm!r}: use zero_gamma=False",
        )
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)

        def make_conv(rngs: InitKeys) -> Callable[..., Conv]:
            return partial(Conv, bias=norm != "batch", init=init, dtype=dtype, rngs=rngs)

        def make_batch_norm(rngs: InitKeys) -> Callable[..., Any]:
            return partial(make_norm, norm, decay=norm_decay, dtype=dtype, rngs=rngs)

        def make_block(in_channels: int, plan: Plan, rngs: InitKeys) -> Block:
            return Block(
                in_channels,
                plan,
                conv=make_conv(rngs),
                norm=make_batch_norm(rngs),
                activation=activation,
                shortcut=shortcut,
                residual=residual,
                zero_gamma=zero_gamma,
            )

        channels, before = scaled(base, width), input_shape[-1]
        stem = windows.kernel_plan(kernel_plan, 7, 2, 3) if layout == "imagenet" else [(3, 1, 1)]
        for i, window in enumerate(stem, start=1):
            name = f"1_{i}" if len(stem) > 1 else "1"
            self.append(f"conv{name}", make_conv(rngs)(before, channels, *window))
            if norm == "batch":
                self.append(f"norm{name}", make_batch_norm(rngs)(channels))
            self.append(f"activation{name}", get_activation(activation))
            before = channels
        if layout == "imagenet":
            self.append("pool1", make_pool(pool, channels, *((3, 2, 1) if overlapping else (2, 2, 0)), **options))

        for i, num_blocks in enumerate(blocks_per_stage):
            make_plan = partial(
                block,
                scaled(base * 2**i, width),
                variant=variant,
                groups=groups,
                width_per_group=width_per_group,
                reduction=reduction,
            )
            first, others = make_plan(stride=2 if i > 0 else 1), make_plan(stride=1)
            stage = Stage([make_block(channels, first, rngs)])
            channels = first[-1][1]
            make_other = partial(make_block, channels, others)
            if num_blocks > UNROLLED:
                stage.append(Repeated(make_other, num_blocks - 1, rngs=rngs))
            else:
                stage.extend(make_other(rngs) for _ in range(num_blocks - 1))
            self.append(f"conv{i + 2}_x", stage)

        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout,
            activation=activation,
            classifier_init="normal_0.01",  # Goyal et al. 2017, section 5.1
            **options,
        )


resnet18, resnet34, resnet50, resnet101, resnet152 = (
    partial(ResNet, layout="imagenet", depth=depth) for depth in IMAGENET
)
cifar_resnet = partial(ResNet, layout="cifar", depth=20, num_classes=10, input_shape=(32, 32, 3), shortcut="A")
resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202 = (
    partial(cifar_resnet, depth=depth) for depth in (20, 32, 44, 56, 110, 1202)
)
