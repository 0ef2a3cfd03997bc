"""Chooses how layers compute convolutions and max pooling: XLA's own operations, or kernels that are fast on a CPU.

Layers use the kernels of `cnn_jax.kernels` only inside `fast()`, as the steps of training, evaluation and prediction
do. So a network that a user calls is stock JAX. Both forms compute the same sums, differ by rounding only, and have
forward mode, reverse mode and `vmap`. GPUs, TPUs, meshes of several devices and exported programs always have XLA's,
but for the gradient of max pooling on GPUs (`kernels.pooling`).
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels import build, convolution, pooling

_target = jax.make_user_context(default_value=None)  # part of the key of jit's caches


@contextlib.contextmanager
def fast(enabled: bool = True) -> Iterator[None]:
    """Inside the block, in this thread, layers are traced with the kernels for CPUs, where there are any.

    Also a decorator of a function that is going to be jitted: `@cpu.fast()`. With enabled=False it changes nothing.
    """
    with _target(target() or "") if enabled else contextlib.nullcontext():
        yield


def target() -> str | None:
    """Returns the hash of the kernels that `fast()` uses here, None where it uses XLA's own operations."""
    return build.target() if jax.default_backend() == "cpu" else None


def use_fast_path() -> bool:
    """Returns whether a layer uses the kernels: inside `fast()`, on a CPU that has them."""
    return bool(_target.value)


def conv_general_dilated(
    lhs: jax.Array,  # [B, *spatial, C_in]
    rhs: jax.Array,  # [*kernel, C_in // groups, C_out]
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    dimension_numbers: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """Returns `lax.conv_general_dilated` in channels-last layout; inside `fast()`, computed by the kernels for CPUs."""
    ordinary = not isinstance(padding, str) and set(lhs_dilation or (1,)) == {1}
    ordinary &= preferred_element_type in (None, lhs.dtype) and set(options.values()) <= {None}
    if use_fast_path() and ordinary and convolution.suits(lhs, rhs):
        return convolution.convolve(
            lhs,
            rhs,
            window_strides,
            padding,  # pyright: ignore[reportArgumentType]
            dilation=rhs_dilation or (1,) * len(window_strides),
            groups=feature_group_count,
            precision=precision,
            target=_target.value,
        )
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


def max_pool(
    x: jax.Array,  # [B, *spatial, C], of a floating type
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns the maximum of each window, [B, *spatial', C]; padding is never the maximum.

    The first maximum of a window, in row-major order, receives its gradient. That is XLA's rule; as XLA's own operation
    it costs a CPU about ten times the forward pass, and is not deterministic on a GPU: see `kernels.pooling`.
    """
    if _target.value is not None and convolution.suits(x, x):
        return pooling.max_pool(x, kernel, strides, padding, target=_target.value)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))
