"""How the primitives of this room become programs: calls of the library, or XLA's own operations."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnn_jax.kernels import build


def define(
    name: str,
    handler: str | None,
    *,
    xla: Callable[..., Any],
    attributes: Callable[..., dict[str, Any]],
    gpu: Callable[..., Any] | None = None,
) -> Primitive:
    """Returns a primitive that calls `handler` of the library on one CPU, if it has one, and elsewhere computes `xla`.

    Elsewhere is another platform, a mesh of several devices, and every exported program. One of the primitive's
    parameters is `target`, of `build.target`; without one, it computes `xla` everywhere.

    Args:
      xla: (*arrays, **parameters) -> array. gpu: the same for GPUs, if another form is better there.
      attributes: (**parameters) -> the handler's attributes: ints and tuples of ints.
    """
    primitive = Primitive(name)

    @functools.cache
    def jitted(parameters: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **dict(parameters)))

    primitive.def_impl(lambda *arrays, **parameters: jitted(tuple(sorted(parameters.items())))(*arrays))
    elsewhere = mlir.lower_fun(xla, multiple_results=False)

    def on_cpu(ctx: Any, *operands: Any, target: str, **parameters: Any) -> Any:
        if handler is None or not target or not is_one_device(ctx):
            return elsewhere(ctx, *operands, target=target, **parameters)
        call = jax.ffi.ffi_lowering(build.name_of(handler, target))
        numbers = attributes(**parameters).items()
        return call(ctx, *operands, **{name: np.asarray(value, np.int64)[()] for name, value in numbers})

    mlir.register_lowering(primitive, elsewhere)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    if gpu is not None:
        for platform in ("cuda", "rocm"):
            mlir.register_lowering(primitive, mlir.lower_fun(gpu, multiple_results=False), platform=platform)
    return primitive


def is_one_device(ctx: Any) -> bool:
    """Returns whether a program is lowered to run here, on one device: XLA cannot split a call over several."""
    module = ctx.module_context
    return not module.lowering_parameters.for_export and getattr(module.axis_context, "num_devices", 0) == 1
