"""The user's own networks that are not a `Family`: any class of Flax modules."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check
from cnn_jax.core.rules import option
from cnn_jax.nn.family import Family
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import InitKeys

GIVEN = ("num_classes", "input_shape", "dtype")  # by the data set and the precision


class CustomNetwork(nnx.Module):
    """A module as training needs it: its scores are float32. Its parameters are below "module"."""

    def __init__(self, module: nnx.Module):
        self.module = module
        self.order: tuple[str, ...] = ("module",)
        self.takes_key = "rngs" in inspect.signature(type(module).__call__).parameters

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        module: Any = self.module
        scores = module(x, rngs=rngs) if self.takes_key else module(x)
        return emit(self, x, scores.astype(jnp.float32))

    def describe(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> tuple[str, str, int]:
        """Returns (kind, detail, MACs) for the layer table, which has one row for the whole network."""
        image = jax.ShapeDtypeStruct((1, *in_shape), jnp.float32)
        return "network", type(self.module).__name__, macs_of(jax.make_jaxpr(self)(image).jaxpr)


def macs_of(jaxpr: Any) -> int:
    """Returns the multiply-accumulates of all convolutions and matrix products of a jaxpr."""
    total = 0
    for eqn in jaxpr.eqns:
        out = eqn.outvars[0].aval
        if eqn.primitive.name == "conv_general_dilated":
            _, features, *window = eqn.params["dimension_numbers"].rhs_spec
            kernel = eqn.invars[1].aval.shape  # its features are those of one group
            total += math.prod(out.shape) * kernel[features] * math.prod(kernel[axis] for axis in window)
        elif eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            total += math.prod(out.shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        inner = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += repeats * sum(macs_of(value) for value in inner if hasattr(value, "eqns"))
    return total


def family_of(found: Any, name: str) -> Any:
    """Returns a `Family` as it is, or one that wraps a class of modules.

    The class takes `num_classes` and `rngs` (an `nnx.Rngs`) by keyword and, optionally, `input_shape` and `dtype`; its
    other keyword arguments are the fields of config.model and need defaults. A call maps images, normalized float32
    [B, *spatial, C], to class scores [B, num_classes]; for dropout it may take the keyword `rngs`, a key or None.
    Such a network trains, evaluates and resumes; what looks at layers (features, CAM, partial fine-tuning) needs a
    `Family`.

    Raises:
      UserError: it is not a class of modules, or its arguments are not of this form.
    """
    if isinstance(found, type) and issubclass(found, Family):
        check(not inspect.isabstract(found), f"model.name is {name!r}, a Family without `layers`: define it")
        return found
    check(
        callable(found), f"model.name is {name!r}, which is not a class: name a Family or a class of flax.nnx modules"
    )
    # A module's metaclass hides its signature.
    parameters = dict(inspect.signature(found.__init__ if isinstance(found, type) else found).parameters)
    parameters.pop("self", None)
    for needed in ("num_classes", "rngs"):
        check(needed in parameters, f"model.name is {name!r}, but it takes no {needed!r}: networks get it by keyword")
    own = {key: p.default for key, p in parameters.items() if key not in (*GIVEN, "rngs")}
    missing = [key for key, default in own.items() if default is inspect.Parameter.empty]
    check(not missing, f"model.name is {name!r}, but {', '.join(missing)} have no default: fields need one")
    return _stand_in(found, own, tuple(key for key in GIVEN if key in parameters))


def _stand_in(make: Callable[..., Any], own: dict[str, Any], given: tuple[str, ...]) -> Any:
    class Custom:
        one_form: ClassVar[tuple[str, ...]] = ()

        def build(self, rngs: InitKeys) -> CustomNetwork:
            values = {key: getattr(self, key) for key in (*given, *own)}
            module = make(**values, rngs=nnx.Rngs(params=rngs.key))
            check(
                not jax.tree.leaves(nnx.state(module, nnx.RngState)),
                "the network keeps random state, which training does not support: give dropout its key in the call",
            )
            return CustomNetwork(module)

    shared: list[Any] = [
        ("num_classes", int, option(1000, "Number of classes.")),
        ("input_shape", tuple[int, ...], option((224, 224, 3), "Shape of an image without batch.")),
        ("dtype", Any, option(None, "Type that layers compute in.")),
    ]
    fields = [(key, Any, option(default, "See the class.")) for key, default in own.items()]
    return dataclasses.make_dataclass(make.__name__, [*shared, *fields], bases=(Custom,), frozen=True, kw_only=True)
