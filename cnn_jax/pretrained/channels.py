"""A trained network for images of another number of channels: its first convolution and its normalization change."""

from dataclasses import replace
from typing import Any

import numpy as np
from flax import nnx

from cnn_jax import models
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check
from cnn_jax.nn.layers import Conv
from cnn_jax.pretrained.source import Pretrained


def with_channels(source: Pretrained, channels: int) -> Pretrained:
    """Returns the network for images of `channels`, as timm's `adapt_input_conv` makes it.

    For one channel the first convolution has the sums of its weights over the channels, so that a grey image gives what
    its three equal channels gave. For others it has its channels again and again, times old / new channels: the sum
    over all channels is as large as before. Mean and deviation are the average for one channel, else repeated, too.

    Raises:
      UserError: the network does not begin with a convolution that sees all channels.
    """
    before = source.input["channels"]
    if channels == before:
        return source
    check(channels >= 1, f"channels is {channels}, but must be at least 1")
    path = first_kernel(source)
    kernel = source.leaves[path]  # [*spatial, C_in, C_out]
    again = np.arange(channels) % before
    if channels == 1:
        how, new = "the sum over its channels", kernel.sum(axis=-2, keepdims=True)
    else:
        how, new = f"repeated, times {before}/{channels}", kernel[..., again, :] * np.float32(before / channels)

    def adapted(values: Any) -> Any:  # [C], [1] or [*spatial, C]
        array = np.asarray(values, np.float64)
        if array.shape[-1] != before:
            return values
        return (array.mean(axis=-1, keepdims=True) if channels == 1 else array[..., again]).round(6).tolist()

    given = dict(source.input) | {name: adapted(source.input[name]) for name in ("mean", "std")}
    return replace(
        source,
        description=f"{source.description}; {path} for {channels} instead of {before} channels: {how}",
        input=given | {"channels": channels},
        leaves=dict(source.leaves) | {path: new},
    )


def first_kernel(source: Pretrained) -> str:
    """Returns the name of the kernel of the first layer, a convolution that sees all channels.

    Raises:
      UserError: it is another layer.
    """
    channels = source.input["channels"]
    fields = {name: value for name, value in source.model.items() if name != "name"}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    shape = (*source.input["image_size"], channels)
    model = nnx.eval_shape(lambda: models.create(source.model["name"], input_shape=shape, **fields))
    for layer in model.order:
        for path, node in nnx.iter_graph(getattr(model, layer)):
            name = "/".join(filter(None, (layer, trees.path_name(path), "kernel")))
            if isinstance(node, Conv) and node.in_features == channels and node.feature_group_count == 1:
                return name
        if any(name.startswith(f"{layer}/") for name in source.leaves):
            break
    raise UserError(
        f"{source.name} takes images of {channels} channels, and other numbers need a network that begins with a "
        f"convolution, which {source.model['name']} does not: give it images of {channels} channels"
    )
