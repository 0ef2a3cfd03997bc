"""The same networks in PyTorch, to measure against. PyTorch is imported inside functions only."""

from collections.abc import Sequence
from typing import Any

from cnn_jax import models
from cnn_jax.config.fields import model_fields
from cnn_jax.core.errors import check, check_choice
from cnn_jax.models import resnet
from cnn_jax.nn.init import scaled, scaled_sizes


def network(config: Any, image_shape: Sequence[int]) -> Any:
    """Returns the network of `config` as a torch.nn.Module, float [B, C, H, W] -> class scores [B, num_classes].

    Layers stand in the order in which ours are called; initial values are PyTorch's.

    Raises:
      UserError: there is no twin of this network, or it lacks a field.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    name, fields = config.model.name, models.fields(config.model.name) | model_fields(config)
    twins = {"lenet": (LENET_FIELDS, _lenet_features), "resnet": (RESNET_FIELDS, _resnet_features)}
    family = models.MODELS[name].module
    known = ", ".join(other for other, row in models.MODELS.items() if row.module in twins)
    check(family in twins, f"{name} has no twin in PyTorch yet: --against=torch knows {known}")
    fixed, make_features = twins[family]
    for field, value in fixed.items():
        check(
            fields[field] == value,
            f"config.model.{field} is {fields[field]!r}, but the twin of {name} in PyTorch has it at {value!r} only",
        )
    check_choice("config.model.head", fields["head"], ("gap", "flatten", "fc"))

    height, width, channels = image_shape
    features = make_features(nn, fields, channels)
    with torch.no_grad():
        shape = features.eval()(torch.zeros(1, channels, height, width)).shape[1:]
    gap = fields["head"] == "gap"
    size = shape[0] if gap else shape.numel()
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if gap else [nn.Flatten()]
    for units in scaled_sizes(fields["fc_sizes"], fields["width"]) if fields["head"] == "fc" else ():
        layers += [nn.Linear(size, units), _activation(nn, fields), nn.Dropout(fields["dropout"])]
        size = units
    layers += [nn.Dropout(fields["dropout"])] if fields["head"] != "fc" else []
    return nn.Sequential(features, *layers, nn.Linear(size, config.data.num_classes)).train()


def _activation(nn: Any, fields: dict[str, Any]) -> Any:
    activations = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
    name = fields.get("activation", "relu")
    check_choice("config.model.activation", name, activations)
    return activations[name]()


# What the twins of a family cannot change.
LENET_FIELDS = dict(norm="none", kernel_plan="single", connections="full", output="linear")


def _lenet_features(nn: Any, fields: dict[str, Any], channels: int) -> Any:
    """Returns LeNet-5 without its head, and sets `fields["fc_sizes"]`."""
    maps1, maps2, units5 = (scaled(n, fields["width"]) for n in (6, 16, 120))
    pools = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}
    check_choice("config.model.pool", fields["pool"], pools)
    layers = []
    for inputs, outputs, padding in ((channels, maps1, fields["padding"]), (maps1, maps2, 0)):
        layers += [nn.Conv2d(inputs, outputs, 5, padding=padding), _activation(nn, fields), pools[fields["pool"]](2)]
    if fields["c5"] == "conv":
        layers += [nn.Conv2d(maps2, units5, 5), _activation(nn, fields)]
    fields["fc_sizes"] = (84,) if fields["c5"] == "conv" else (120, 84)
    return nn.Sequential(*layers)


RESNET_FIELDS = dict(kernel_plan="single", pool="max", overlapping=True, norm="batch", activation="relu")


def _resnet_features(nn: Any, fields: dict[str, Any], channels: int) -> Any:
    """Returns a residual network, or its plain twin, without its head."""
    functional = nn.functional

    def norm(size: int) -> Any:
        return nn.BatchNorm2d(size, momentum=1 - fields["norm_decay"])

    class Block(nn.Module):
        def __init__(self, inputs: int, plan: resnet.Plan):
            super().__init__()
            layers, size, self.stride = [], inputs, 1
            for kernel, outputs, stride, groups in plan:
                conv = nn.Conv2d(size, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
                layers += [conv, norm(outputs), nn.ReLU(inplace=True)]
                size, self.stride = outputs, self.stride * stride
            self.body = nn.Sequential(*layers[:-1])
            self.new_channels = size - inputs
            changes = self.stride != 1 or self.new_channels != 0
            self.projection = None
            if fields["residual"] and (fields["shortcut"] == "C" or (fields["shortcut"] == "B" and changes)):
                self.projection = nn.Sequential(nn.Conv2d(inputs, size, 1, self.stride, bias=False), norm(size))

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            if self.projection is not None:
                y = y + self.projection(x)
            elif fields["residual"]:
                shortcut = x[:, :, :: self.stride, :: self.stride]
                y = y + (
                    functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels)) if self.new_channels else shortcut
                )
            return functional.relu(y, inplace=True)

    block, blocks_per_stage, base = resnet.table(fields["layout"], fields["depth"])
    large, size = fields["layout"] == "imagenet", scaled(base, fields["width"])
    kernel, stride = (7, 2) if large else (3, 1)
    layers = [nn.Conv2d(channels, size, kernel, stride, kernel // 2, bias=False), norm(size), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, 1)] if large else []
    forms = {name: fields[name] for name in ("variant", "groups", "width_per_group", "reduction")}
    for stage, blocks in enumerate(blocks_per_stage):
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            plan = block(scaled(base * 2**stage, fields["width"]), stride, **forms)
            layers.append(Block(size, plan))
            size = plan[-1][1]
    return nn.Sequential(*layers)
