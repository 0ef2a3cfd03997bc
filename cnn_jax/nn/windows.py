"""Windows of convolutions and pools: checks of their sizes, whether they fit an input, stacks of small ones."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax.core.errors import UserError, check, check_choice


def per_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


class DoesNotFitError(UserError):
    """A kernel is larger than its padded input. `layer` is the module that raised it."""

    def __init__(self, layer: nnx.Module, message: str):
        super().__init__(message)
        self.layer = layer


def check_window(kernel: int | Sequence[int], stride: int | Sequence[int], padding: int | Sequence[int]) -> None:
    """Raises UserError unless a layer's windows have a positive size, a positive stride, and no negative padding."""
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


KERNEL_PLANS = ("single", "stacked")


def kernel_plan(plan: str, kernel: int, stride: int = 1, padding: int = 0) -> list[tuple[int, int, int]]:
    """Returns (kernel, stride, padding) of the convolutions that replace one.

    "single" is the convolution itself. "stacked" is 3x3 convolutions of the same receptive field and output size: two
    for a 5x5, three for a 7x7 (Simonyan & Zisserman 2015, section 2.3). The last one has the stride.

    Raises:
      UserError: no such plan, an even kernel, or a padding larger than half of it.
    """
    check_choice("kernel_plan", plan, KERNEL_PLANS)
    if plan == "single":
        return [(kernel, stride, padding)]
    number = (kernel - 1) // 2
    check(
        kernel % 2 == 1 and 0 <= padding <= number,
        f"kernel_plan is 'stacked', but a {kernel}x{kernel} convolution with padding {padding} has no such form: its "
        f"kernel must be odd and its padding at most {number}",
    )
    return [(3, stride if i == number - 1 else 1, int(i < padding)) for i in range(number)]
