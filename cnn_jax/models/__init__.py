"""All networks by name. Importing this module imports none of them."""

import functools
import importlib
import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

from cnn_jax.core.errors import UserError, check, check_choice, near

# name -> "module:constructor". The constructor's keyword arguments are the fields of config.model.
MODELS = {
    "lenet5": "lenet:LeNet5",
    "resnet18": "resnet:resnet18",
    "resnet34": "resnet:resnet34",
    "resnet50": "resnet:resnet50",
    "resnet101": "resnet:resnet101",
    "resnet152": "resnet:resnet152",
    "cifar_resnet": "resnet:cifar_resnet",
    "resnet20": "resnet:resnet20",
    "resnet32": "resnet:resnet32",
    "resnet44": "resnet:resnet44",
    "resnet56": "resnet:resnet56",
    "resnet110": "resnet:resnet110",
    "resnet1202": "resnet:resnet1202",
    "nin": "nin:nin",
    "nin_cifar": "nin:nin_cifar",
    "googlenet": "googlenet:GoogLeNet",
    "squeezenet1_0": "squeezenet:squeezenet1_0",
    "squeezenet1_1": "squeezenet:squeezenet1_1",
    "alexnet": "alexnet:AlexNet",
    "zfnet": "alexnet:zfnet",
    "vgg11": "vgg:vgg11",
    "vgg11_lrn": "vgg:vgg11_lrn",
    "vgg13": "vgg:vgg13",
    "vgg16c": "vgg:vgg16c",
    "vgg16": "vgg:vgg16",
    "vgg19": "vgg:vgg19",
    "mlp": "mlp:MLP",
    "dilated": "dilated:DilatedNet",
    "c3d": "c3d:C3D",
    "conv1d": "conv1d:ConvNet1D",
    "toy": "toy:ToyNet",
    "lenet5_1998": "lenet:lenet5_1998",
    "local": "local:LocalNet",
    "flattened": "flattened:FlattenedNet",
}


def constructor(name: str) -> Callable[..., Any]:
    """Returns the constructor of the network called `name`; imports its family only.

    Raises:
      UserError: no such network; the message has the near match.
    """
    check_choice("model.name", name, MODELS)
    module, attribute = MODELS[name].split(":")
    return getattr(importlib.import_module(f"cnn_jax.models.{module}"), attribute)


def fields(name: str) -> dict[str, Any]:
    """Returns the keyword arguments of a network with their defaults: the fields that config.model may have."""
    build, given = constructor(name), {}
    while isinstance(build, functools.partial):
        build, given = build.func, build.keywords | given
    parameters = inspect.signature(build.__init__).parameters.values()  # a module's metaclass hides its signature
    return {p.name: p.default for p in parameters if p.default is not p.empty} | given


# Arguments of the constructors that are no fields of config.model: the data set, the precision and the name set them.
GIVEN = ("num_classes", "input_shape", "dtype", "layout", "version")


def check_model(model: Any) -> None:
    """Raises UserError unless `model`, config.model, names a network and has only fields of it."""
    check("name" in model, "config.model has no name: the config file must set config.model")
    known = [field for field in fields(model.name) if field not in GIVEN]
    for field in set(model) - {"name"}:
        check(
            field in known,
            f"config.model.{field}: {model.name} has no such field{near(field, known)}. Its fields: {', '.join(known)}",
        )


# Fields that a name has settled: another value is another network.
SETTLED = {"layout", "depth", "configuration", "version"}


def create(name: str, *, seed: Any = 0, **kwargs: Any) -> Any:
    """Builds a network, an `nnx.Module` that maps images [B, *spatial, C] to class scores [B, num_classes] (float32).

    Args:
      name: a key of `MODELS`.
      seed: of the initial parameters: an int or a key of `jax.random.key`.
      **kwargs: the constructor's fields: `num_classes`, `input_shape` (without batch), `dtype` (of the computation)
        and the network's own, such as `head` or `residual`.

    Raises:
      UserError: an unknown name or field (with the near match), or an impossible value.
    """
    import jax

    from cnn_jax.nn.init import InitKeys

    known = fields(name)
    for field, value in kwargs.items():
        if field not in known:
            raise UserError(f"{name} has no field {field!r}{near(field, known)}. Its fields: {', '.join(known)}")
        check(
            field not in SETTLED or (name, field) == ("cifar_resnet", "depth") or value == known[field],
            f"{name} is the network whose {field} is {known[field]!r}: for {value!r} take that network's name",
        )
    shape = kwargs.get("input_shape", known["input_shape"])
    check(
        len(shape) >= 2 and all(isinstance(size, Integral) and int(size) >= 1 for size in shape),
        f"input_shape is {tuple(shape)}, but must be [*spatial, channels]: at least two whole numbers above 0",
    )
    return constructor(name)(rngs=InitKeys(jax.random.key(seed) if isinstance(seed, int) else seed), **kwargs)
