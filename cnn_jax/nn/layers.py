"""Convolution, linear layer, normalization, and the block of them that every family uses.

All arrays are channels-last: images are [B, H, W, C]. Paddings and strides are always explicit numbers, because
"SAME" pads a strided 7x7 convolution differently from the papers' code.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import lax

from cnn_jax.core import trees
from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn import cpu
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import ONES, ZEROS, InitKeys, Statistic, get_activation, get_init
from cnn_jax.nn.windows import check_fits, check_window, per_axis


class Conv(nnx.Conv):
    """Convolution with explicit symmetric padding, [B, *spatial, C_in] -> [B, *spatial', C_out].

    `kernel`, `stride`, `padding` and `dilation` are one int for two axes, or a tuple with one int per axis. With
    `standardize` it computes with the `standardized` kernel.
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
        standardize: bool = False,
        init: str,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        kernel = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        dims = len(kernel)
        check_window(kernel, stride, padding)
        self.pads = per_axis(padding, dims)
        self.stride, self.dilation = per_axis(stride, dims), per_axis(dilation, dims)
        self.standardize = standardize
        check(
            in_channels % groups == 0 and out_channels % groups == 0,
            f"groups is {groups}, but must divide both {in_channels} input and {out_channels} output channels",
        )
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            strides=self.stride,
            padding=[(pad, pad) for pad in self.pads],
            kernel_dilation=self.dilation,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=get_init(init),
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape, self.dilation)
        kernel = standardized(self.kernel[...]) if self.standardize else self.kernel[...]
        images, kernel = promote_dtype((x, kernel), dtype=self.dtype)
        axes = "DHW"[-len(self.pads) :]
        y = cpu.conv_general_dilated(
            images,
            kernel,
            self.stride,
            [(pad, pad) for pad in self.pads],
            rhs_dilation=self.dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.feature_group_count,
        )
        return emit(self, x, add_bias(y, self.bias))


def standardized(kernel: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Returns a kernel [*spatial, C_in, C_out] whose weights of each output channel have mean 0 and variance 1.

    Weight standardization (Qiao et al. 2019, eq. 5), with the biased variance and timm's epsilon.
    """
    mean, var = mean_and_variance(kernel, tuple(range(kernel.ndim - 1)))
    return (kernel - mean) * lax.rsqrt(var + epsilon)


@jax.jit
def whole_image(x: jax.Array) -> jax.Array:
    """Returns x. Receptive fields do not count what it holds of the whole image, as they do not count statistics."""
    return x


def mean_and_variance(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance over `axes`, which stay with size 1; exact however large the mean is."""
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


def add_bias(y: jax.Array, bias: Any) -> jax.Array:
    """Returns [..., C] plus a parameter [C] or None, in the type of `y`.

    The sum is computed in float32 or wider, and so is the bias's gradient, a sum over all positions: in bfloat16 it
    would be off by 4% and more.
    """
    return y if bias is None else (wide(y) + bias[...]).astype(y.dtype)


def wide(x: jax.Array) -> jax.Array:
    """Returns an array in float32, or in float64 if that is its type."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


class Linear(nnx.Linear):
    """Fully connected layer, [B, n_in] -> [B, n_out]."""

    def __init__(self, in_features: int, out_features: int, *, init: str, dtype: Any = None, rngs: InitKeys):
        super().__init__(
            in_features,
            out_features,
            kernel_init=get_init(init),
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        values, kernel = promote_dtype((x, self.kernel[...]), dtype=self.dtype)
        return emit(self, x, add_bias(values @ kernel, self.bias))


def rounded_kernels(model: nnx.Module) -> frozenset[str]:
    """Returns the names of the kernels that layers round to bfloat16 before anything else."""
    return frozenset(
        f"{trees.path_name(path)}/kernel"
        for path, layer in nnx.iter_graph(model)
        if isinstance(layer, Conv | Linear)
        and layer.dtype == jnp.bfloat16
        and not (isinstance(layer, Conv) and layer.standardize)
    )


def _as_they_are(arrays: Any, **_: Any) -> Any:
    return arrays


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes but the last; statistics are float32, over the global batch.

    With `group` above 0, training normalizes every `group` consecutive images by their own statistics; the running
    averages use the mean of these.

    `decay` is the weight of the old value in the running averages (torch's momentum is 1 - decay).
    Unlike torch's, the running variance is the biased one: it differs by the factor (n-1)/n. Variances are those of
    Flax, E[x**2] - E[x]**2 in one pass: exact to 1% or better while |mean| is below 300 standard deviations.
    """

    def __init__(
        self,
        channels: int,
        *,
        decay: float = 0.9,
        epsilon: float = 1e-5,
        zero_scale: bool = False,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check(0 <= decay < 1, f"norm_decay is {decay}, but must be in [0, 1): the weight of the old running average")
        super().__init__(
            1,  # Flax would compile zeros and ones for every number of channels; this way, it compiles them once
            momentum=decay,
            epsilon=epsilon,
            promote_dtype=_as_they_are,
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )
        self.compute_dtype, self.group = dtype, 0
        self.num_features = channels
        self.scale = nnx.Param((ZEROS if zero_scale else ONES)(rngs.key, (channels,)))
        self.bias = nnx.Param(ZEROS(rngs.key, (channels,)))
        self.mean = Statistic(ZEROS(rngs.key, (channels,)))
        self.var = Statistic(ONES(rngs.key, (channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes in float32 or wider: Flax would round scale, bias and their gradients to the computation's type."""
        y = self._grouped(wide(x)) if self.group and not self.use_running_average else super().__call__(wide(x))
        return emit(self, x, y.astype(self.compute_dtype or x.dtype))

    def _grouped(self, x: jax.Array) -> jax.Array:
        """Normalizes each `group` of images by its own statistics, which are computed as Flax computes them."""
        images = x.reshape(-1, self.group, *x.shape[1:])
        axes = tuple(range(1, images.ndim - 1))
        mean, square = (jnp.mean(values, axes, keepdims=True) for values in (images, jnp.square(images)))
        var = jnp.maximum(square - jnp.square(mean), 0)
        for average, values in ((self.mean, mean), (self.var, var)):
            new = values.reshape(-1, values.shape[-1]).mean(0)
            average[...] = jax.lax.stop_gradient(self.momentum * average[...] + (1 - self.momentum) * new)
        scale, bias = self.scale, self.bias
        assert scale is not None and bias is not None
        return ((images - mean) * (lax.rsqrt(var + self.epsilon) * scale[...]) + bias[...]).reshape(x.shape)


def sum_of_neighbors(x: jax.Array, size: int) -> jax.Array:
    """Returns the sums over the `size` channels around each channel, [..., C] -> [..., C]."""
    window, ones, half = (1,) * (x.ndim - 1) + (size,), (1,) * x.ndim, size // 2
    return lax.reduce_window(x, 0.0, lax.add, window, ones, ((0, 0),) * (x.ndim - 1) + ((half, half),))


def sum_of_neighbors_by_product(x: jax.Array, size: int, dtype: Any) -> jax.Array:
    """Returns `sum_of_neighbors` as a product with a matrix of bands [C, C], of values that are rounded to `dtype`.

    XLA for TPUs fuses it with what is before and after. It would write the input and the output of windows to memory:
    AlexNet's step in bfloat16 took 58% more temporaries and 13% more cycles, by its own account.
    """
    channels = np.arange(x.shape[-1])
    band = np.abs(channels[:, None] - channels) <= size // 2
    precision = None if dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    return jnp.matmul(x.astype(dtype), band.astype(dtype), precision=precision, preferred_element_type=x.dtype)


class LocalResponseNorm(nnx.Module):
    """Local response normalization over neighboring channels, [..., C] -> [..., C], in float32.

    TPUs round the squares to the type of the input.

    x_i / (k + alpha * sum of x_j**2 over the `size` channels around i)**beta, with the constants of Krizhevsky et al.
    2012, section 3.3. Caffe and torch divide alpha by the size: their alpha=1e-4, size=5 is alpha=2e-5 here.
    """

    def __init__(self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0):
        check(size >= 1 and size % 2 == 1, f"the size of a local response normalization is {size}, but must be odd")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def __call__(self, x: jax.Array) -> jax.Array:
        values = x.astype(jnp.float32)
        total = lax.platform_dependent(
            jnp.square(values),
            tpu=partial(sum_of_neighbors_by_product, size=self.size, dtype=x.dtype),
            default=partial(sum_of_neighbors, size=self.size),
        )
        return emit(self, x, (values * (self.k + self.alpha * total) ** -self.beta).astype(x.dtype))


class ChannelNorm(nnx.Module):
    """What normalizations of single images share: a scale and an offset for each channel."""

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        zero_scale: bool = False,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        self.epsilon, self.compute_dtype = epsilon, dtype
        self.scale = nnx.Param((ZEROS if zero_scale else ONES)(rngs.key, (channels,)))
        self.bias = nnx.Param(ZEROS(rngs.key, (channels,)))

    def scaled(self, x: jax.Array, normal: jax.Array) -> jax.Array:
        """Returns scale * normal + bias in the type of the computation; `normal` is x, normalized in float32."""
        y = normal * self.scale[...] + self.bias[...]
        return emit(self, x, y.astype(self.compute_dtype or x.dtype))


class GroupNorm(ChannelNorm):
    """Group normalization (Wu & He 2018, eq. 7): over all positions and the channels of a group, of each image.

    It has no running averages: training and evaluation compute the same, whatever the batch.
    """

    def __init__(self, channels: int, groups: int = 32, **options: Any):
        check(groups > 0 and channels % groups == 0, f"groups is {groups}, but must divide {channels} channels")
        super().__init__(channels, **options)
        self.groups = groups

    def __call__(self, x: jax.Array) -> jax.Array:
        grouped = wide(x).reshape(*x.shape[:-1], self.groups, -1)
        mean, var = map(whole_image, mean_and_variance(grouped, (*range(1, x.ndim - 1), x.ndim)))
        return self.scaled(x, ((grouped - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape))


class LayerNorm(ChannelNorm):
    """Layer normalization over the channels of each position (Ba et al. 2016; Liu et al. 2022, "A ConvNet")."""

    def __call__(self, x: jax.Array) -> jax.Array:
        values = wide(x)
        mean, var = mean_and_variance(values, (x.ndim - 1,))
        return self.scaled(x, (values - mean) * lax.rsqrt(var + self.epsilon))


NORMS = ("none", "lrn", "batch", "group", "layer")
BEFORE_ACTIVATION = ("batch", "group", "layer")  # they have an offset, so that the convolution needs no bias


def groups_of(channels: int, most: int) -> int:
    """Returns the number of groups of `channels`: at most `most`, and at least two channels in each if there are two.

    One channel alone would be instance normalization, which keeps nothing of a map of one position.
    """
    return next(n for n in range(max(1, min(most, channels // 2)), 0, -1) if channels % n == 0)


def make_norm(
    kind: str,
    channels: int,
    *,
    groups: int = 32,
    decay: float = 0.9,
    epsilon: float = 1e-5,
    zero_scale: bool = False,
    dtype: Any = None,
    rngs: InitKeys,
) -> Any:
    """Returns a normalization of maps with `channels`, one of `NORMS`; "none" is None.

    groups: of "group", at most; see `groups_of`.
    """
    check_choice("norm", kind, NORMS)
    options: dict[str, Any] = dict(epsilon=epsilon, zero_scale=zero_scale, dtype=dtype, rngs=rngs)
    if kind == "batch":
        return BatchNorm(channels, decay=decay, **options)
    if kind == "group":
        return GroupNorm(channels, groups_of(channels, groups), **options)
    if kind == "layer":
        return LayerNorm(channels, **options)
    return LocalResponseNorm() if kind == "lrn" else None


class ConvBlock(nnx.Module):
    """Convolution, normalization, activation, [B, *spatial, C_in] -> [B, *spatial', C_out].

    norm: one of `NORMS`, before the activation; "lrn" after it, as in AlexNet. bias: of the convolution.
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
        norm_groups: int = 32,
        norm_decay: float = 0.9,
        norm_epsilon: float = 1e-5,
        activation: str = "relu",
        init: str,
        dtype: Any = None,
        rngs: InitKeys,
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
        self.norm = make_norm(
            norm, out_channels, groups=norm_groups, decay=norm_decay, epsilon=norm_epsilon, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        if isinstance(self.norm, (BatchNorm, ChannelNorm)):
            return self.activation(self.norm(x))
        x = self.activation(x)
        return x if self.norm is None else self.norm(x)
