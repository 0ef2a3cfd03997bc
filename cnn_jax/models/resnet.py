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

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
from flax import nnx

from cnn_jax.core.errors import check, check_choice
from cnn_jax.core.rules import SHARE, Choice, Rule, option
from cnn_jax.nn import remat, windows
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.init import get_activation
from cnn_jax.nn.layers import Conv, Linear, whole_image
from cnn_jax.nn.network import fold_in
from cnn_jax.nn.pooling import POOLS, GlobalAveragePool
from cnn_jax.nn.scan import Repeated
from cnn_jax.nn.stochastic_depth import StochasticDepth, linear_rates

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
    """Convolutions of `plan`, each with normalization, plus a shortcut; activation between and after the addition.

    After the last normalization come `gate`, which scales the channels, and `depth`, which skips images at random.

    shortcut: "A": identity, by subsampling and zero channels where shapes change; "B": a 1x1 projection where shapes
      change; "C": a projection in every block (section 3.3 and Table 3).
    residual=False drops the shortcut and leaves the rest: the plain twin.
    conv, norm: make a layer; norm("none") is None. gate: makes a layer for maps of so many channels; None: none.
    rates: of `StochasticDepth`; 0 alone: none.
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
        gate: Callable[[int], nnx.Module] | None = None,
        rates: Sequence[float] = (0.0,),
    ):
        self.activation = get_activation(activation)
        channels, stride = in_channels, 1
        self.depth = len(plan)
        for i, (kernel, out_channels, step, groups) in enumerate(plan, start=1):
            setattr(self, f"conv{i}", conv(channels, out_channels, kernel, step, kernel // 2, groups=groups))
            setattr(self, f"norm{i}", norm(out_channels, zero_scale=zero_gamma and i == self.depth))
            channels, stride = out_channels, stride * step

        self.gate = None if gate is None else gate(channels)
        self.skips = StochasticDepth(rates) if any(rates) else None
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

    def __call__(self, x: jax.Array, **skipping: Any) -> jax.Array:
        """Returns the block's output; `skipping` is of `StochasticDepth`."""
        y = x
        for i in range(1, self.depth + 1):
            y = normalized(getattr(self, f"norm{i}"), getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = self.activation(y)
        y = y if self.gate is None else self.gate(y)
        y = y if self.skips is None else self.skips(y, **skipping)
        return self.activation(y + self.shortcut(x) if self.residual else y)


def normalized(norm: Any, x: jax.Array) -> jax.Array:
    """Returns the normalized x; without a normalization, x itself."""
    return x if norm is None else norm(x)


class SqueezeExcitation(nnx.Module):
    """Scales each channel by what a small network makes of the averages of all (Hu et al. 2018, section 3).

    [B, *spatial, C] -> the same; the hidden layer has C / `reduction` units.
    """

    def __init__(self, channels: int, reduction: int, **options: Any):
        hidden = max(1, channels // reduction)
        self.pool = GlobalAveragePool()
        self.squeeze, self.excite = Linear(channels, hidden, **options), Linear(hidden, channels, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(self.pool(x)))))
        return x * whole_image(scale).reshape(len(x), *[1] * (x.ndim - 2), -1)


class Stage(nnx.List):
    """Blocks in a row. `skips`: whether they have stochastic depth, for which a call takes a key."""

    skips = False

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        for i, block in enumerate(self):
            key = {} if rngs is None else dict(rngs=fold_in(rngs, i))
            x = block(x, **key) if isinstance(block, Repeated) else remat.call(block, x, **key)
        return x


class ResNet(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes].

    The classifier's kernel starts as N(0, 0.01) (Goyal et al. 2017, section 5.1).
    """

    layout: str = option("imagenet", "imagenet: Table 1; cifar: section 4.2.", Choice("imagenet", "cifar"))
    depth: int = option(50, "Layers: 18, 34, 50, 101 or 152 of Table 1; with layout=cifar any 6n+2.")
    variant: str = option(
        "v1.5", "Where a bottleneck has its stride. v1: in the first 1x1; v1.5: in the 3x3.", Choice("v1", "v1.5")
    )
    shortcut: str = option(
        "B", "A: identity, zero channels; B: projections where shapes change; C: in every block.", Choice("A", "B", "C")
    )
    residual: bool = option(True, "False: the plain twin, without shortcuts.")
    groups: int = option(1, "Groups of the 3x3 in a bottleneck; 32 with width_per_group=4: ResNeXt-50 32x4d.")
    width_per_group: int = option(64, "Channels of a group; 128 with groups=1: Wide-ResNet-50-2.")
    reduction: bool = option(True, "False: bottlenecks without their first 1x1; their 3x3 sees all channels.")
    kernel_plan: str = option(
        "single", "Of the stem. stacked: three 3x3 convolutions replace the 7x7.", Choice(*windows.KERNEL_PLANS)
    )
    pool: str = option("max", "Pooling of the stem; conv: a strided convolution.", Choice(*POOLS))
    overlapping: bool = option(True, "Pooling window of 3x3 with stride 2; False: 2x2.")
    norm: str = option(
        "batch",
        "group: of each image (Wu & He 2018); layer: over the channels of each position; none: biases instead.",
        Choice("batch", "group", "layer", "none"),
    )
    weight_standardization: bool = option(
        False, "Kernels with mean 0 and variance 1 for each output channel (Qiao et al. 2019), for norm=group."
    )
    zero_gamma: bool = option(
        False, "The last scale of each block's normalization starts at 0 (Goyal et al. 2017, section 5.1)."
    )
    squeeze_excitation: int = option(
        0,
        "Reduction of squeeze-and-excitation in every block (Hu et al. 2018: 16); 0: none.",
        Rule("0 for none, or above 0", lambda reduction: reduction >= 0),
    )
    stochastic_depth: float = option(
        0.0,
        "Probability that training skips the last block, for each image; those before it have less, in a line "
        "(Huang et al. 2016: 0.5).",
        SHARE,
    )
    head: str = "gap"
    init: str = "he_fan_out"

    bias_before_norm = False

    def check(self) -> None:
        block, _, _ = table(self.layout, self.depth)
        check(
            block is bottleneck or (self.groups, self.width_per_group, self.reduction) == (1, 64, True),
            f"groups is {self.groups}, width_per_group {self.width_per_group} and reduction {self.reduction}, but a "
            f"network of depth {self.depth} has basic blocks: grouped, wide and unreduced forms need the bottlenecks "
            "of depth 50, 101 or 152",
        )
        check(
            self.layout == "imagenet" or (self.kernel_plan, self.pool, self.overlapping) == ("single", "max", True),
            f"kernel_plan is {self.kernel_plan!r}, pool {self.pool!r} and overlapping {self.overlapping}, but the "
            "network for small images begins with one 3x3 convolution and has no pool: leave the three at their "
            "defaults",
        )
        check(
            self.reduction or self.variant == "v1.5",
            "reduction is False, but variant 'v1' has its stride in the reduction: use variant='v1.5'",
        )
        check(
            self.norm != "none" or not self.zero_gamma,
            "zero_gamma is True, which is about the scales of normalizations, but norm is 'none': use zero_gamma=False",
        )
        check(
            self.norm != "none" or not self.weight_standardization,
            "weight_standardization is True, but norm is 'none', and only a normalization can scale what kernels of "
            "variance 1 give: use norm='group', or weight_standardization=False",
        )

        check(
            self.residual or not self.stochastic_depth,
            f"stochastic_depth is {self.stochastic_depth}, but residual is False, and a block without a shortcut "
            "cannot be skipped: use stochastic_depth=0",
        )

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        block, blocks_per_stage, base = table(self.layout, self.depth)
        large = self.layout == "imagenet"
        stem = windows.kernel_plan(self.kernel_plan, 7, 2, 3) if large else [(3, 1, 1)]
        for i, window in enumerate(stem, start=1):
            number = f"1_{i}" if len(stem) > 1 else "1"
            yield f"conv{number}", make.conv(base, *window, standardize=self.weight_standardization)
            if self.norm != "none":
                yield f"norm{number}", make.norm(make.channels)
            yield f"activation{number}", make.activation
        if large:
            yield "pool1", make.pool(self.pool, *((3, 2, 1) if self.overlapping else (2, 2, 0)))
        bottlenecks = dict(
            variant=self.variant,
            groups=self.groups,
            width_per_group=self.width_per_group,
            reduction=self.reduction,
        )
        rates = iter(linear_rates(self.stochastic_depth, sum(blocks_per_stage)))
        for i, count in enumerate(blocks_per_stage):
            plan = partial(block, make.scaled(base * 2**i), **bottlenecks)
            stride = 2 if i > 0 else 1
            yield f"conv{i + 2}_x", self.stage(make, plan(stride=stride), plan(stride=1), list(islice(rates, count)))

    def stage(self, make: LayerMaker, first: Plan, other: Plan, rates: Sequence[float]) -> Stage:
        """Returns a block for each of `rates`, those of stochastic depth: one of the plan `first`, then equal ones."""

        def block(plan: Plan, make: LayerMaker, *rates: float) -> Block:
            gate = partial(SqueezeExcitation, reduction=self.squeeze_excitation, **make.options)
            return Block(
                make.channels,
                plan,
                conv=partial(make.Conv, standardize=self.weight_standardization),
                norm=make.norm,
                activation=self.activation,
                shortcut=self.shortcut,
                residual=self.residual,
                zero_gamma=self.zero_gamma,
                gate=gate if self.squeeze_excitation else None,
                rates=rates,
            )

        stage = Stage([block(first, make, rates[0])])
        stage.skips = self.stochastic_depth > 0
        make.channels = first[-1][1]
        rest = rates[1:]
        if len(rates) > UNROLLED:
            stage.append(Repeated(lambda keys: block(other, make.with_keys(keys), *rest), len(rest), rngs=make.rngs))
        else:
            stage.extend(block(other, make, rate) for rate in rest)
        return stage

    def head_options(self) -> dict[str, Any]:
        return dict(classifier_init="normal_0.01")


class SmallResNet(ResNet):
    """The networks for images of 32x32, with `layout="cifar"`."""

    num_classes: int = 10
    input_shape: tuple[int, ...] = (32, 32, 3)
    depth: int = 20
    shortcut: str = "A"

    one_form = ("variant", "groups", "width_per_group", "reduction", "kernel_plan", "pool", "overlapping")
