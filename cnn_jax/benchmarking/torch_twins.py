"""The same networks in PyTorch, to measure against. PyTorch is imported inside functions only."""

from collections.abc import Sequence
from typing import Any

from cnn_jax import models
from cnn_jax.config.fields import model_fields
from cnn_jax.core.errors import check, check_choice
from cnn_jax.models import c3d, googlenet, resnet, vgg
from cnn_jax.nn.init import scaled, scaled_sizes


def network(config: Any, image_shape: Sequence[int]) -> Any:
    """Returns the network of `config` as a torch.nn.Module, float [B, C, *spatial] -> class scores [B, num_classes].

    Layers are in the order in which ours are called; initial values are PyTorch's. With auxiliary classifiers, it
    returns the same as ours in training: (scores, their scores, weight).

    Raises:
      UserError: there is no twin of this network, or the twin lacks a field.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    name, fields = config.model.name, models.fields(config.model.name) | model_fields(config)
    twins = {
        "lenet": (LENET_FIELDS, _lenet_features),
        "resnet": (RESNET_FIELDS, _resnet_features),
        "vgg": (VGG_FIELDS, _vgg_features),
        "googlenet": (GOOGLENET_FIELDS, _googlenet_features),
        "c3d": (C3D_FIELDS, _c3d_features),
    }
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

    *sizes, channels = image_shape
    fields["num_classes"] = config.data.num_classes
    features = make_features(nn, fields, channels)
    with torch.no_grad():
        maps = features.eval()(torch.zeros(1, channels, *sizes))
    pool = nn.AdaptiveAvgPool2d if len(sizes) == 2 else nn.AdaptiveAvgPool3d
    layers = [pool(1), nn.Flatten()] if fields["head"] == "gap" else [nn.Flatten()]
    size = maps.shape[1] if fields["head"] == "gap" else maps[0].numel()
    head = nn.Sequential(*layers, *_linear_layers(nn, fields, size))
    if getattr(features, "auxiliary", None) is None:
        return nn.Sequential(features, head).train()

    class WithAuxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = features, head

        def forward(self, x: Any) -> Any:
            if not self.training:
                return self.head(self.features(x))
            x, others = self.features(x)
            return self.head(x), others, fields["auxiliary_weight"]

    return WithAuxiliary().train()


def _linear_layers(nn: Any, fields: dict[str, Any], size: int) -> list[Any]:
    """Returns the layers of a head on `size` features: hidden layers, dropout and classifier."""
    layers = []
    for units in scaled_sizes(fields["fc_sizes"], fields["width"]) if fields["head"] == "fc" else ():
        layers += [nn.Linear(size, units), _activation(nn, fields), nn.Dropout(fields["dropout"])]
        size = units
    layers += [nn.Dropout(fields["dropout"])] if fields["head"] != "fc" else []
    return [*layers, nn.Linear(size, fields["num_classes"])]


def _activation(nn: Any, fields: dict[str, Any]) -> Any:
    activations = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
    name = fields.get("activation", "relu")
    check_choice("config.model.activation", name, activations)
    return activations[name]()


# Fields that the twins of a family cannot change.
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


RESNET_FIELDS = dict(
    kernel_plan="single",
    pool="max",
    overlapping=True,
    norm="batch",
    activation="relu",
    weight_standardization=False,
    squeeze_excitation=0,
    stochastic_depth=0.0,
)


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


def _block(nn: Any, fields: dict[str, Any], conv: Any, norm: str) -> list[Any]:
    """Returns a convolution with normalization and activation, like our `nn.layers.ConvBlock`."""
    activation = _activation(nn, fields)
    if norm == "batch":
        kind = nn.BatchNorm3d if isinstance(conv, nn.Conv3d) else nn.BatchNorm2d
        epsilon = 1e-3 if fields.get("variant") == "torchvision" else 1e-5
        return [conv, kind(conv.out_channels, eps=epsilon, momentum=1 - fields["norm_decay"]), activation]
    return [conv, activation] + ([_local_response_norm(nn)] if norm == "lrn" else [])


def _local_response_norm(nn: Any) -> Any:
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by the size


VGG_FIELDS = dict(pool="max")


def _vgg_features(nn: Any, fields: dict[str, Any], channels: int) -> Any:
    """Returns a VGG without its head."""
    layers, norm = [], fields["norm"]
    for base, kernels in zip(vgg.MAPS, vgg.CONFIGURATIONS[fields["configuration"]], strict=True):
        maps = scaled(base, fields["width"])
        for kernel in kernels if fields["kernel_plan"] == "stacked" else vgg.one_kernel(kernels):
            conv = nn.Conv2d(channels, maps, kernel, padding=kernel // 2)
            layers += _block(nn, fields, conv, "none" if norm == "lrn" and layers else norm)
            channels = maps
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


C3D_FIELDS = dict(pool="max")


def _c3d_features(nn: Any, fields: dict[str, Any], channels: int) -> Any:
    """Returns C3D without its head, float [B, C, T, H, W] -> maps."""
    layers, frames = [], fields["temporal_kernel"]
    for convolutions, size, padding in c3d.STAGES:
        for base in convolutions:
            maps = scaled(base, fields["width"])
            conv = nn.Conv3d(channels, maps, (frames, 3, 3), padding=(frames // 2, 1, 1))
            layers += _block(nn, fields, conv, fields["norm"])
            channels = maps
        layers.append(nn.MaxPool3d(size, padding=padding))
    return nn.Sequential(*layers)


GOOGLENET_FIELDS = dict(pool="max", overlapping=True, reduction=True, kernel_plan="single")


def _googlenet_features(nn: Any, fields: dict[str, Any], channels: int) -> Any:
    """Returns GoogLeNet without its head; in training with the scores of the auxiliary classifiers, if it has them."""
    import torch  # pyright: ignore[reportMissingImports]

    theirs, norm = fields["variant"] == "torchvision", "none" if fields["norm"] == "lrn" else fields["norm"]
    lrn = [_local_response_norm(nn)] if fields["norm"] == "lrn" else []

    def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Any:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm != "batch")
        return nn.Sequential(*_block(nn, fields, conv, norm))

    class Inception(nn.Module):
        def __init__(self, inputs: int, row: Any):
            super().__init__()
            ones, reduce3, threes, reduce5, fives, projection = row
            five = 3 if theirs else 5
            self.branches = nn.ModuleList(
                [
                    block(inputs, ones, 1),
                    nn.Sequential(block(inputs, reduce3, 1), block(reduce3, threes, 3)),
                    nn.Sequential(block(inputs, reduce5, 1), block(reduce5, fives, five)),
                    nn.Sequential(nn.MaxPool2d(3, 1, 1), block(inputs, projection, 1)),
                ]
            )
            self.outputs = ones + threes + fives + projection

        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self.branches], 1)

    def classifier(inputs: int) -> Any:
        pool = nn.AdaptiveAvgPool2d(4) if theirs else nn.AvgPool2d(5, 3)
        maps = scaled(128, fields["width"])
        hidden = scaled(1024, fields["width"])
        dropout = nn.Dropout(fields["auxiliary_dropout"])
        linear = [nn.LazyLinear(hidden), _activation(nn, fields), dropout, nn.Linear(hidden, fields["num_classes"])]
        return nn.Sequential(pool, block(inputs, maps, 1), nn.Flatten(), *linear)

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            first, reduce, second = (scaled(n, fields["width"]) for n in (64, 64, 192))
            pool = [nn.MaxPool2d(3, 2, ceil_mode=True)]
            self.stem = nn.Sequential(
                *(block(channels, first, 7, 2), *pool, *lrn),
                *(block(first, reduce, 1), block(reduce, second, 3), *lrn, *pool),
            )
            self.rows, self.auxiliary, size = nn.ModuleDict(), {} if fields["auxiliary"] else None, second
            for name, row in googlenet.MODULES.items():
                if row is None:
                    window = 2 if name == "pool4" and theirs else 3
                    self.rows[name] = nn.MaxPool2d(window, 2, ceil_mode=True)
                    continue
                self.rows[name] = inception = Inception(size, [scaled(n, fields["width"]) for n in row])
                size = inception.outputs
                if self.auxiliary is not None and name in googlenet.AUXILIARY:
                    self.auxiliary[name] = googlenet.AUXILIARY[name]
                    self.rows[googlenet.AUXILIARY[name]] = classifier(size)

        def forward(self, x: Any) -> Any:
            x, others = self.stem(x), []
            for name in googlenet.MODULES:
                x = self.rows[name](x)
                if self.auxiliary and name in self.auxiliary and (self.training or not self.auxiliary_is_known):
                    others.append(self.rows[self.auxiliary[name]](x))
            self.auxiliary_is_known = True
            return (x, tuple(others)) if self.auxiliary and self.training else x

        auxiliary_is_known = False  # whether their first linear layers have their sizes

    return Features()
