"""The building blocks that every family shares: convolution, pooling, normalisation, head.

All arrays are channels-last: images are [B, H, W, C]. Paddings and strides are always explicit numbers, because
"SAME" pads a strided 7x7 convolution differently from the papers' code.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.nn import initializers

from cnn_jax.errors import UserError, check, check_choice
from cnn_jax.models import cpu
from cnn_jax.trees import path_name

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 (Maas et al. 2013)
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),  # LeCun et al. 1998, eq. 6 and appendix A
    "linear": lambda x: x,
}


def lecun_uniform_1998(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """U(-2.4/n, 2.4/n) with n the fan-in (LeCun et al. 1998, appendix A)."""
    limit = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)


# Name -> initialiser of convolution and linear kernels. Biases start at zero.
INITS: dict[str, Callable[..., jax.Array]] = {
    "he_fan_in": initializers.variance_scaling(2.0, "fan_in", "normal"),  # He et al. 2015, eq. 10
    "he_fan_out": initializers.variance_scaling(2.0, "fan_out", "normal"),  # He et al. 2015, eq. 14
    "glorot_normal": initializers.variance_scaling(1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010
    "glorot_uniform": initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": initializers.variance_scaling(1.0, "fan_in", "normal"),
    "lecun_uniform_1998": lecun_uniform_1998,
    "normal_0.01": initializers.normal(0.01),  # Krizhevsky et al. 2012, section 5
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation function called `name`; raises UserError for an unknown one."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def get_init(name: str) -> Callable[..., jax.Array]:
    """Returns the kernel initialiser called `name`; raises UserError for an unknown one."""
    check_choice("init", name, INITS)
    return INITS[name]


def scaled(channels: int, width: float) -> int:
    """Returns a layer's channels under a width multiplier, at least 1."""
    check(width > 0, f"width is {width}, but must be positive: 1 is the paper's network, 0.5 half of its channels")
    return max(1, round(channels * width))


def scaled_sizes(sizes: Sequence[int], width: float) -> tuple[int, ...]:
    """Returns the units of hidden layers under a width multiplier; raises UserError for a size below 1."""
    check(all(size > 0 for size in sizes), f"the hidden sizes are {tuple(sizes)}, but every size must be above 0")
    return tuple(scaled(size, width) for size in sizes)


# ---------------------------------------------------------------- listening to layers

_listeners: list[list] = []


@contextlib.contextmanager
def listen() -> Iterator[list[tuple[nnx.Module, jax.Array, jax.Array]]]:
    """Collects (layer, input, output) of every layer that is called inside the block, in call order.

    Works on real arrays and under tracing (`jax.eval_shape`), so it serves the layer table and feature maps alike.
    """
    calls: list[tuple[nnx.Module, jax.Array, jax.Array]] = []
    _listeners.append(calls)
    try:
        yield calls
    finally:
        _listeners.pop()


def _report(layer: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    for calls in _listeners:
        calls.append((layer, x, y))
    return y


def report(layer: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    """Tells the listeners that `layer` made y of x, and returns y: for layers that stand in a family's own file.

    Such a layer has `describe(in_shape, out_shape)`, which returns (kind, detail, macs) for the layer table.
    """
    return _report(layer, x, y)


# ---------------------------------------------------------------- keys and statistics that trace fast


class Keys:
    """Keys for initial parameters, one for each call of `params()`; layers take it in the place of `nnx.Rngs`.

    It counts in Python. `nnx.Rngs` counts in an array, and under tracing every assignment `variable[...] = value`
    of Flax asks a tracer for its sharding, which costs time quadratic in the depth (ResNet-1202: 9 minutes).
    """

    def __init__(self, key: jax.Array):
        self.key = key
        self.count = 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


class Statistic(nnx.BatchStat):
    """A running average whose assignment does not ask for the sharding; see `Keys`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set_value(value)


# ---------------------------------------------------------------- layers


def _per_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


class DoesNotFitError(UserError):
    """A kernel is larger than its padded input. `layer` is the module that raised it."""

    def __init__(self, layer: nnx.Module, message: str):
        super().__init__(message)
        self.layer = layer


def _check_fits(layer: Any, shape: Sequence[int], dilation: Sequence[int] | None = None) -> None:
    dims = len(layer.kernel_size)
    check(
        len(shape) == dims + 2,
        f"the input of a {dims}-D layer has the shape {tuple(shape)}, but must be [batch, {dims} sizes, channels]",
    )
    for size, kernel, padding, rate in zip(
        shape[1:-1], layer.kernel_size, layer.pads, dilation or (1,) * len(layer.kernel_size), strict=True
    ):
        if size + 2 * padding < rate * (kernel - 1) + 1:
            got = "x".join(str(size) for size in shape[1:-1])
            raise DoesNotFitError(layer, f"a kernel of {kernel} with padding {padding} does not fit its {got} input")


class Conv(nnx.Conv):
    """Convolution with explicit symmetric padding, [B, *spatial, C_in] -> [B, *spatial', C_out].

    `kernel`, `stride`, `padding` and `dilation` are one int for two axes, or a tuple with one int per axis.
    Raises DoesNotFitError when called on an input smaller than the kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        *,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        init: str,
        dtype: Any = None,
        rngs: Keys,
    ):
        kernel = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        dims = len(kernel)
        check(min(_per_axis(padding, dims)) >= 0, f"padding is {padding}, but must not be negative")
        self.pads = _per_axis(padding, dims)
        self.dilation = _per_axis(dilation, dims)
        check(
            in_channels % groups == 0 and out_channels % groups == 0,
            f"groups is {groups}, but must divide both {in_channels} input and {out_channels} output channels",
        )
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            strides=_per_axis(stride, dims),
            padding=[(pad, pad) for pad in self.pads],
            kernel_dilation=self.dilation,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=get_init(init),
            dtype=dtype,
            conv_general_dilated=cpu.conv_general_dilated,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        _check_fits(self, x.shape, self.dilation)
        return _report(self, x, super().__call__(x))


class Linear(nnx.Linear):
    """Fully connected layer, [B, n_in] -> [B, n_out]."""

    def __init__(self, in_features: int, out_features: int, *, init: str, dtype: Any = None, rngs: Keys):
        super().__init__(
            in_features,
            out_features,
            kernel_init=get_init(init),
            dtype=dtype,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return _report(self, x, super().__call__(x))


class Pool(nnx.Module):
    """Max or average pooling, [B, *spatial, C] -> [B, *spatial', C].

    Padding is never the maximum; averages count it. `ceil` adds a last window that reaches over the end, where the
    strides leave a rest (Caffe's rule, and torch's `ceil_mode`); for the maximum only.
    """

    def __init__(
        self,
        kind: str,
        kernel: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] = 0,
        *,
        ceil: bool = False,
    ):
        check_choice("pool", kind, ("max", "average"))
        check(kind == "max" or not ceil, "ceil pools the maximum only: an average would count what is not there")
        self.kind = kind
        self.ceil = ceil
        self.kernel_size = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        self.strides = _per_axis(stride, len(self.kernel_size))
        self.pads = _per_axis(padding, len(self.kernel_size))

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Returns (before, after) for each spatial axis of an input of `sizes`."""
        pads = []
        for size, kernel, stride, pad in zip(sizes, self.kernel_size, self.strides, self.pads, strict=True):
            rest = (size + 2 * pad - kernel) % stride
            # A window that would begin behind the input and its first padding does not count.
            begins = (size + 2 * pad - kernel) // stride * stride + stride
            extra = stride - rest if self.ceil and rest and begins < size + pad else 0
            pads.append((pad, pad + extra))
        return pads

    def __call__(self, x: jax.Array) -> jax.Array:
        _check_fits(self, x.shape)
        padding = self.padding(x.shape[1:-1])
        if self.kind == "max":
            y = cpu.max_pool(x, self.kernel_size, self.strides, padding)
        else:
            window, strides = (1, *self.kernel_size, 1), (1, *self.strides, 1)
            total = lax.reduce_window(x, 0.0, lax.add, window, strides, ((0, 0), *padding, (0, 0)))
            y = total / math.prod(self.kernel_size)
        return _report(self, x, y)


def make_pool(
    kind: str,
    channels: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    *,
    ceil: bool = False,
    init: str,
    dtype: Any = None,
    rngs: Keys,
) -> Pool | Conv:
    """Returns what makes maps smaller: "max", "average", or "conv", a strided convolution that learns how.

    The convolution keeps the channels and has no activation of its own (Springenberg et al. 2014, section 2).
    """
    check_choice("pool", kind, ("max", "average", "conv"))
    if kind == "conv":
        return Conv(channels, channels, kernel, stride, padding, init=init, dtype=dtype, rngs=rngs)
    return Pool(kind, kernel, stride, padding, ceil=ceil and kind == "max")


class GlobalAveragePool(nnx.Module):
    """Mean over all positions, [B, *spatial, C] -> [B, C], summed in float32."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32).astype(x.dtype)
        return _report(self, x, y)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all axes but the last; statistics are float32 and those of the global batch.

    `decay` is the weight of the old value in the running averages (torch's momentum is 1 - decay).
    Unlike torch's, the running variance is the biased one: it differs by the factor (n-1)/n.
    """

    def __init__(
        self,
        channels: int,
        *,
        decay: float = 0.9,
        epsilon: float = 1e-5,
        zero_scale: bool = False,
        dtype: Any = None,
        rngs: Keys,
    ):
        check(0 <= decay < 1, f"norm_decay is {decay}, but must be in [0, 1): the weight of the old running average")
        super().__init__(
            channels,
            momentum=decay,
            epsilon=epsilon,
            scale_init=initializers.zeros if zero_scale else initializers.ones,
            dtype=dtype,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )
        self.mean = Statistic(jnp.zeros(channels))
        self.var = Statistic(jnp.ones(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        return _report(self, x, self._evaluate(x) if self.use_running_average else super().__call__(x))

    def _evaluate(self, x: jax.Array) -> jax.Array:
        """Normalises with the running averages. Flax rounds them to the computation's type, a bias in bfloat16."""
        dtype = self.dtype or x.dtype
        mean, var, scale, bias = (v[...] for v in (self.mean, self.var, self.scale, self.bias) if v is not None)
        return ((x.astype(jnp.float32) - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(dtype)


class LocalResponseNorm(nnx.Module):
    """Local response normalisation over neighbouring channels, [..., C] -> [..., C], in float32.

    x_i / (k + alpha * sum of x_j**2 over the `size` channels around i)**beta, with the constants of Krizhevsky et al.
    2012, section 3.3. Caffe and torch divide alpha by the size: their alpha=1e-4, size=5 is alpha=2e-5 here.
    """

    def __init__(self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0):
        check(size >= 1 and size % 2 == 1, f"the size of a local response normalisation is {size}, but must be odd")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def __call__(self, x: jax.Array) -> jax.Array:
        squares = jnp.square(x.astype(jnp.float32))
        window, ones, half = (1,) * (x.ndim - 1) + (self.size,), (1,) * x.ndim, self.size // 2
        padding = ((0, 0),) * (x.ndim - 1) + ((half, half),)
        total = lax.reduce_window(squares, 0.0, lax.add, window, ones, padding)
        return _report(self, x, (x * (self.k + self.alpha * total) ** -self.beta).astype(x.dtype))


NORMS = ("none", "lrn", "batch")


def make_norm(
    kind: str, channels: int, *, decay: float = 0.9, epsilon: float = 1e-5, dtype: Any = None, rngs: Keys
) -> nnx.Module | None:
    """Returns a normalisation of maps with `channels`: None, `LocalResponseNorm` or `BatchNorm`."""
    check_choice("norm", kind, NORMS)
    if kind == "batch":
        return BatchNorm(channels, decay=decay, epsilon=epsilon, dtype=dtype, rngs=rngs)
    return LocalResponseNorm() if kind == "lrn" else None


class ConvBlock(nnx.Module):
    """Convolution, normalisation, activation, [B, *spatial, C_in] -> [B, *spatial', C_out].

    norm: "none", "batch" (before the activation) or "lrn" (after it, as in AlexNet). bias: of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        *,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        norm: str = "none",
        norm_decay: float = 0.9,
        norm_epsilon: float = 1e-5,
        activation: str = "relu",
        init: str,
        dtype: Any = None,
        rngs: Keys,
    ):
        self.activation = get_activation(activation)
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            init=init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = make_norm(norm, out_channels, decay=norm_decay, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        if isinstance(self.norm, BatchNorm):
            return self.activation(self.norm(x))
        x = self.activation(x)
        return x if self.norm is None else self.norm(x)  # pyright: ignore[reportCallIssue]


# ---------------------------------------------------------------- head

HEADS = ("gap", "flatten", "fc", "conv")


class Head(nnx.Module):
    """From feature maps to class scores, [B, *spatial, C] -> [B, num_classes] in float32.

    kind:
      "gap": global average pooling, then one linear layer (Lin et al. 2013; He et al. 2016).
      "flatten": one linear layer on all features.
      "fc": hidden linear layers of `fc_sizes`, each with activation and dropout, then the classifier
        (Krizhevsky et al. 2012).
      "conv": a 1x1 convolution to one map for each class, activation, global average pooling (Lin et al. 2013, section
        3.2; Iandola et al. 2016): no linear layer.
    `dropout` is the rate; but for "fc" it stands before the classifier.
    """

    def __init__(
        self,
        in_shape: Sequence[int],  # [*spatial, C], without batch
        num_classes: int,
        *,
        kind: str,
        fc_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
        init: str,
        classifier_init: str,
        dtype: Any = None,
        rngs: Keys,
    ):
        check_choice("head", kind, HEADS)
        check(0 <= dropout < 1, f"dropout is {dropout}, but must be in [0, 1): the share of features set to zero")
        check(num_classes >= 2, f"num_classes is {num_classes}, but a classifier needs at least 2 classes")
        self.kind = kind
        self.activation = get_activation(activation)
        features = in_shape[-1] if kind == "gap" else math.prod(in_shape)
        self.pool = GlobalAveragePool() if kind in ("gap", "conv") else None
        self.hidden = nnx.List([])
        check(all(size > 0 for size in fc_sizes), f"fc_sizes is {tuple(fc_sizes)}, but every size must be above 0")
        for size in fc_sizes if kind == "fc" else ():
            self.hidden.append(Linear(features, size, init=init, dtype=dtype, rngs=rngs))
            features = size
        self.dropout = nnx.Dropout(dropout)
        if kind == "conv":
            ones = (1,) * (len(in_shape) - 1)
            self.classifier = Conv(in_shape[-1], num_classes, ones, init=classifier_init, dtype=dtype, rngs=rngs)
        else:
            self.classifier = Linear(features, num_classes, init=classifier_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        if self.kind == "conv":
            assert self.pool is not None
            maps = self.activation(self.classifier(self.dropout(x, rngs=rngs)))
            return self.pool(maps).astype(jnp.float32)
        x = self.pool(x) if self.pool is not None else x.reshape(x.shape[0], -1)
        keys = iter(() if rngs is None else jax.random.split(rngs, len(self.hidden) + 1))
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)), rngs=next(keys, None))
        if not self.hidden:
            x = self.dropout(x, rngs=next(keys, None))
        return self.classifier(x).astype(jnp.float32)


# ---------------------------------------------------------------- shapes


def feature_shape(model: Any, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of `model.features(x)` without batch, for x of `input_shape` [*spatial, C]; computes nothing.

    Raises:
      UserError: the input is too small; the message names the layer that it does not fit.
    """
    graphdef, state = nnx.split(model)

    def features(state: Any, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, state)
        try:
            return merged.features(x)
        except DoesNotFitError as error:
            name = next(path_name(path) for path, node in nnx.iter_graph(merged) if node is error.layer)
            size = "x".join(str(n) for n in input_shape[:-1])
            raise UserError(f"an image of {size} is too small for this network: in layer {name!r}, {error}") from None

    image = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    return jax.eval_shape(features, state, image).shape[1:]
