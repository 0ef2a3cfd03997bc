"""Windows of convolutions and pools: what they may be, whether they fit an input."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax.core.errors import UserError, check


def per_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


class DoesNotFitError(UserError):
    """A kernel is larger than its padded input. `layer` is the module that raised it."""

    def __init__(self, layer: nnx.Module, message: str):
        super().__init__(message)
        self.layer = layer


def check_window(kernel: int | Sequence[int], stride: int | Sequence[int], padding: int | Sequence[int]) -> None:
    """Raises UserError unless a layer's windows have a size, move on, and have no negative padding."""
    for field, value, least in (("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0)):
        values = (value,) if isinstance(value, int) else tuple(value)
        check(min(values) >= least, f"a layer's {field} is {value}, but must be at least {least}")


def check_fits(layer: Any, shape: Sequence[int], dilation: Sequence[int] | None = None) -> None:
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
