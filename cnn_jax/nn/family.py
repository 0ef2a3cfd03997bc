"""A family of networks: its fields, each with meaning and rule, and the layers that they make."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, dataclass_transform

import jax.numpy as jnp

from cnn_jax.core.rules import Choice, Rule, check_fields, fixed, option, options
from cnn_jax.nn.init import ACTIVATIONS, INITS, InitKeys, get_activation, scaled, scaled_sizes
from cnn_jax.nn.layers import BEFORE_ACTIVATION, NORMS, Conv, ConvBlock, make_norm
from cnn_jax.nn.network import HEADS, Network
from cnn_jax.nn.pooling import POOLS, Pool, make_pool


def _is_shape(shape: Any) -> bool:
    return len(shape) >= 2 and all(isinstance(size, Integral) and int(size) >= 1 for size in shape)


def _is_dtype(dtype: Any) -> bool:
    return dtype is None or jnp.issubdtype(dtype, jnp.floating)


NOT_EMPTY = Rule("a tuple of numbers: at least one", lambda numbers: len(numbers) > 0)
DROPOUT = Rule("in [0, 1): the share of features set to zero", lambda rate: 0 <= rate < 1)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, fixed))
@dataclass(frozen=True, kw_only=True)
class Family(abc.ABC):
    """The fields that all networks share. A subclass is a frozen keyword-only dataclass, too.

    A subclass declares its own fields by `option`, gives shared ones other defaults (`dropout: float = 0.5`), and
    fixes those that it does not have (`norm: str = fixed("none")`). `layers` yields its layers in the order of the
    paper's table.

    Raises:
      UserError: a field has an impossible value, or fields exclude one another.
    """

    num_classes: int = option(
        1000,
        "Number of classes; 0: no classifier, the network returns the features before it.",
        Rule("0, or at least 2: a classifier needs two classes", lambda number: number == 0 or number >= 2),
    )
    input_shape: tuple[int, ...] = option(
        (224, 224, 3),
        "Shape of an image without batch.",
        Rule("[*spatial, channels]: at least two whole numbers above 0", _is_shape),
    )
    pool: str = option("max", "Pooling; conv: a strided convolution that learns it.", Choice(*POOLS))
    activation: str = option("relu", "Activation function.", Choice(*ACTIVATIONS))
    norm: str = option(
        "none",
        "Normalization; lrn: local response normalization; batch; group: of each image (Wu & He 2018); layer: over the "
        "channels of each position.",
        Choice(*NORMS),
    )
    norm_groups: int = option(
        32,
        "Groups of norm=group; fewer where they do not divide the channels, or would have one channel each.",
        Rule("above 0", lambda groups: groups > 0),
    )
    norm_decay: float = option(
        0.9,
        "Decay of BatchNorm's running averages.",
        Rule("in [0, 1): the weight of the old running average", lambda decay: 0 <= decay < 1),
    )
    head: str = option(
        "fc",
        "From maps to class scores. gap: global average pooling, one linear layer; flatten: one linear layer; fc: "
        "hidden linear layers before it; conv: a 1x1 convolution to one map for each class, averaged.",
        Choice(*HEADS),
    )
    fc_sizes: tuple[int, ...] = option((4096, 4096), "Units of the hidden layers of head=fc.")
    dropout: float = option(0.0, "Dropout rate, before the classifier and after each hidden layer of head=fc.", DROPOUT)
    width: float = option(
        1.0,
        "Multiplies all channels and hidden units.",
        Rule("positive: 1 is the paper's network, 0.5 half of its channels", lambda width: width > 0),
    )
    init: str = option("he_fan_in", "Initializer of the kernels (cnn_jax/nn/init.py).", Choice(*INITS))
    dtype: Any = option(
        None,
        "Type that layers compute in; None: that of the image. Parameters are float32.",
        Rule("None or a floating type such as 'bfloat16'", _is_dtype),
    )

    # Fields that have one possible value: a configuration leaves them out.
    one_form: ClassVar[tuple[str, ...]] = ()
    # Whether convolutions have a bias although a normalization with one follows.
    bias_before_norm: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for name in options(type(self)):
            if isinstance(value := getattr(self, name), list):  # as read from JSON
                object.__setattr__(self, name, tuple(value))
        check_fields(options(type(self)).items(), partial(getattr, self), prefix="")
        self.check()

    def check(self) -> None:  # noqa: B027 - most families have nothing to add
        """Raises UserError for fields that exclude one another."""

    @abc.abstractmethod
    def layers(self, make: "LayerMaker") -> Iterator[tuple[str, Any]]:
        """Yields (name, layer) of every layer before the head, in order; a layer is a module or a function."""

    def head_options(self) -> dict[str, Any]:
        """Returns the arguments of `Head` that differ from the fields."""
        return {}

    def network(self) -> Network:
        """Returns the network without its layers."""
        return Network(self.input_shape, self)

    def build(self, rngs: InitKeys) -> Network:
        """Returns the network with initial parameters.

        Raises:
          UserError: the image is too small; the message names the layer that it does not fit.
        """
        network = self.network()
        make = LayerMaker(self, network, rngs)
        for name, layer in self.layers(make):
            network.append(name, layer)
        network.append_head(self.num_classes, **make.head_options(**self.head_options()))
        return network


class LayerMaker:
    """Makes the layers of a network one after another, with the fields of its family filled in.

    channels: of the maps that the next layer gets. Conv, ConvBlock, norm: make a layer from explicit numbers of
    channels, for modules with branches.
    """

    def __init__(self, family: Family, network: Network, rngs: InitKeys):
        self.family, self.network, self.rngs = family, network, rngs
        self.channels: int = family.input_shape[-1]
        self.activation = get_activation(family.activation)
        self.options: dict[str, Any] = dict(init=family.init, dtype=family.dtype, rngs=rngs)
        bias = family.norm not in BEFORE_ACTIVATION or family.bias_before_norm
        self.Conv = partial(Conv, bias=bias, **self.options)
        self.ConvBlock = partial(
            ConvBlock,
            bias=bias,
            norm=family.norm,
            norm_groups=family.norm_groups,
            norm_decay=family.norm_decay,
            activation=family.activation,
            **self.options,
        )
        self.norm = partial(
            make_norm,
            family.norm,
            groups=family.norm_groups,
            decay=family.norm_decay,
            dtype=family.dtype,
            rngs=rngs,
        )

    def with_keys(self, rngs: InitKeys) -> "LayerMaker":
        """Returns a maker for the same maps with other keys."""
        other = LayerMaker(self.family, self.network, rngs)
        other.channels = self.channels
        return other

    def scaled(self, channels: int) -> int:
        """Returns a number of channels times the width."""
        return scaled(channels, self.family.width)

    def conv(self, channels: int, *window: Any, **changes: Any) -> Conv:
        """Returns a convolution to `channels` times the width; window: kernel, stride, padding."""
        before, self.channels = self.channels, self.scaled(channels)
        return self.Conv(before, self.channels, *window, **changes)

    def block(self, channels: int, *window: Any, **changes: Any) -> ConvBlock:
        """Returns a convolution with normalization and activation; see `conv`."""
        before, self.channels = self.channels, self.scaled(channels)
        return self.ConvBlock(before, self.channels, *window, **changes)

    def blocks(
        self, name: str, channels: int, windows: Sequence[tuple[int, int, int]], **changes: Any
    ) -> Iterator[tuple[str, ConvBlock]]:
        """Yields (name, block) for each window; several have numbered names."""
        for i, window in enumerate(windows, start=1):
            yield f"{name}_{i}" if len(windows) > 1 else name, self.block(channels, *window, **changes)

    def pool(self, kind: str, *window: Any, ceil: bool = False) -> Pool | Conv:
        """Returns a pool of a kind of `POOLS`; window: kernel, stride, padding."""
        return make_pool(kind, self.channels, *window, ceil=ceil, **self.options)

    def shape(self) -> tuple[int, ...]:
        """Returns the shape [*spatial, C] of the maps that the next layer gets."""
        return self.network.feature_shape()

    def head_options(self, **changes: Any) -> dict[str, Any]:
        """Returns the arguments of `Head`: the family's fields, with `changes`."""
        family = self.family
        given: dict[str, Any] = dict(
            kind=family.head,
            fc_sizes=family.fc_sizes,
            dropout=family.dropout,
            activation=family.activation,
            classifier_init=family.init,
            **self.options,
        )
        given |= changes
        return given | dict(fc_sizes=scaled_sizes(given["fc_sizes"], family.width))
