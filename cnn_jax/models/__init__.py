"""All networks by name. Importing this module imports none of them."""

import dataclasses
import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check, check_choice, near
from cnn_jax.core.rules import Field, check_fields
from cnn_jax.core.rules import options as options_of


@dataclasses.dataclass(frozen=True)
class Row:
    """A network's family, as "module:class", and the fields that its name fixes; other values make another network."""

    family: str
    settles: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module of the family in `cnn_jax.models`."""
        return self.family.split(":")[0]


MODELS = {
    "lenet5": Row("lenet:LeNet5"),
    "resnet18": Row("resnet:ResNet", dict(layout="imagenet", depth=18)),
    "resnet34": Row("resnet:ResNet", dict(layout="imagenet", depth=34)),
    "resnet50": Row("resnet:ResNet", dict(layout="imagenet", depth=50)),
    "resnet101": Row("resnet:ResNet", dict(layout="imagenet", depth=101)),
    "resnet152": Row("resnet:ResNet", dict(layout="imagenet", depth=152)),
    "cifar_resnet": Row("resnet:SmallResNet", dict(layout="cifar")),
    "resnet20": Row("resnet:SmallResNet", dict(layout="cifar", depth=20)),
    "resnet32": Row("resnet:SmallResNet", dict(layout="cifar", depth=32)),
    "resnet44": Row("resnet:SmallResNet", dict(layout="cifar", depth=44)),
    "resnet56": Row("resnet:SmallResNet", dict(layout="cifar", depth=56)),
    "resnet110": Row("resnet:SmallResNet", dict(layout="cifar", depth=110)),
    "resnet1202": Row("resnet:SmallResNet", dict(layout="cifar", depth=1202)),
    "nin": Row("nin:NiN", dict(layout="imagenet")),
    "nin_cifar": Row("nin:SmallNiN", dict(layout="cifar")),
    "googlenet": Row("googlenet:GoogLeNet"),
    "squeezenet1_0": Row("squeezenet:SqueezeNet", dict(version="1.0")),
    "squeezenet1_1": Row("squeezenet:SqueezeNet", dict(version="1.1")),
    "alexnet": Row("alexnet:AlexNet"),
    "zfnet": Row("alexnet:ZFNet"),
    "vgg11": Row("vgg:VGG", dict(configuration="A")),
    "vgg11_lrn": Row("vgg:VGGWithLRN", dict(configuration="A")),
    "vgg13": Row("vgg:VGG", dict(configuration="B")),
    "vgg16c": Row("vgg:VGG", dict(configuration="C")),
    "vgg16": Row("vgg:VGG", dict(configuration="D")),
    "vgg19": Row("vgg:VGG", dict(configuration="E")),
    "mlp": Row("mlp:MLP"),
    "dilated": Row("dilated:DilatedNet"),
    "c3d": Row("c3d:C3D"),
    "conv1d": Row("conv1d:ConvNet1D"),
    "toy": Row("toy:ToyNet"),
    "lenet5_1998": Row("lenet:LeNet1998"),
    "local": Row("local:LocalNet"),
    "flattened": Row("flattened:FlattenedNet"),
}

# Fields that config.model does not have: the data set and the precision set them.
FROM_DATA = ("num_classes", "input_shape", "dtype")


def family(name: str) -> Any:
    """Returns the `nn.family.Family` of the network called `name`; imports its module only.

    Args:
      name: a key of `MODELS`, or the import path of a `Family` or of a class of modules: see `nn.own_network`.

    Raises:
      UserError: no such network; the message has the near match.
    """
    if imports.is_path(name):
        from cnn_jax.nn.own_network import family_of

        return family_of(imports.load(name, field="model.name"), name)
    check_choice("model.name", name, MODELS)
    module, _, cls = MODELS[name].family.partition(":")
    return getattr(importlib.import_module(f"cnn_jax.models.{module}"), cls)


def settled(name: str) -> Mapping[str, Any]:
    """Returns the fields that a network's name fixes, with their values."""
    return MODELS[name].settles if name in MODELS else {}


def fields(name: str) -> dict[str, Any]:
    """Returns all fields of a network with their defaults: the keyword arguments of `create`."""
    return {field: option.default for field, option in options_of(family(name)).items()} | dict(settled(name))


def options(name: str) -> dict[str, Field]:
    """Returns the fields that config.model has: default, meaning, rule and type of each.

    These are the fields that are not fixed by the network's name, the data set or the precision.
    """
    cls = family(name)
    given = {*settled(name), *FROM_DATA, *cls.one_form}
    return {field: option for field, option in options_of(cls).items() if field not in given}


def check_model(model: Any) -> None:
    """Raises UserError unless `model`, config.model, names a network and has possible values of its `options`."""
    check("name" in model, "config.model has no name: the config file must set config.model")
    known = options(model.name)
    for field in set(model) - {"name"}:
        check(
            field in known,
            f"config.model.{field}: {model.name} has no such field{near(field, known)}. Its fields: {', '.join(known)}",
        )
    given = [(field, option) for field, option in known.items() if field in model]
    check_fields(given, partial(getattr, model), prefix="config.model.")


def create(name: str, *, seed: Any = 0, **kwargs: Any) -> Any:
    """Builds a network, an `nnx.Module` that maps images [B, *spatial, C] to class scores [B, num_classes] (float32).

    With `num_classes=0` it has no classifier and returns the features that the classifier would get, [B, F] (float32).

    Args:
      name: a key of `MODELS`, or the import path of a network of your own, "mypackage.nets:MyNet".
      seed: for the initial parameters: an int, or a key from `jax.random.key`.
      **kwargs: of `fields(name)`: `num_classes`, `input_shape` (without batch), `dtype` (of the computation) and the
        network's own, such as `head` or `residual`.

    Raises:
      UserError: an unknown name or field (with the near match), or an impossible value.
    """
    import jax

    from cnn_jax.nn.init import InitKeys

    known, fixed = fields(name), settled(name)
    for field, value in kwargs.items():
        if field not in known:
            raise UserError(f"{name} has no field {field!r}{near(field, known)}. Its fields: {', '.join(known)}")
        check(
            field not in fixed or value == fixed[field],
            f"{name} is the network whose {field} is {known[field]!r}: for {value!r} take that network's name",
        )
    network = family(name)(**fixed, **{field: value for field, value in kwargs.items() if field not in fixed})
    return network.build(InitKeys(jax.random.key(seed) if isinstance(seed, int) else seed))
