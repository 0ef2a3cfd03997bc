"""Layer tables of the networks of the lectures, each traced once."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

import cnn_jax
from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, Totals, layer_table, totals
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv


@functools.cache
def _rows(name: str, fields: tuple[tuple[str, Any], ...]) -> list[LayerRow]:
    given = dict(fields)
    return layer_table(lambda: cnn_jax.create(name, **given), image(name, given))


def image(name: str, fields: dict[str, Any]) -> tuple[int, ...]:
    """Returns the image that a network takes."""
    return fields.get("input_shape", models.fields(name)["input_shape"])


def rows(name: str, **fields: Any) -> list[LayerRow]:
    """Returns the layer table of a network with these fields."""
    return _rows(name, tuple(sorted(fields.items())))


def total(name: str, **fields: Any) -> Totals:
    """Returns its sums."""
    return totals(rows(name, **fields), image(name, fields))


def layer(place: str, name: str, **fields: Any) -> LayerRow:
    """Returns the row of one layer: "conv1" for conv1/conv."""
    return next(row for row in rows(name, **fields) if row.name.removesuffix("/conv") == place)


def weights(found: Sequence[LayerRow]) -> int:
    """Returns the parameters without biases."""
    return sum(row.parameters - row.biases for row in found)


def macs(found: Sequence[LayerRow]) -> int:
    return sum(row.macs for row in found)


def outputs(found: Sequence[LayerRow], kinds: Sequence[str] = ("conv", "pool", "linear")) -> list[int]:
    """Returns how many values each layer of these kinds outputs."""
    return [row.outputs for row in found if row.kind in kinds]


def fc_share(name: str, **fields: Any) -> float:
    """Returns the share of linear layers in the parameters, %."""
    found = total(name, **fields)
    return 100 * found.linear_parameters / found.parameters


def convolution(size: int, channels: int, filters: int, kernel: int, padding: int = 0) -> LayerRow:
    """Returns the row of a convolution of stride 1 on images of `size` x `size`."""
    options: dict[str, Any] = dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
    return layer_table(lambda: Conv(channels, filters, kernel, 1, padding, **options), (size, size, channels))[0]
