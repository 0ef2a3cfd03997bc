"""The layer table of a network: shapes, parameters, multiply-accumulates. Nothing is computed, only traced."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console
from rich.table import Table

from cnn_jax import trees
from cnn_jax.models import layers


@dataclass(frozen=True)
class LayerRow:
    """One layer as it was called."""

    name: str  # path of the module: conv2_x/0/conv1
    kind: str  # conv, linear, pool, norm
    detail: str  # kernel / stride, padding
    output_shape: tuple[int, ...]  # without batch
    parameters: int
    macs: int  # multiply-accumulates for one example: convolutions and linear layers only (FLOPs = 2 x MACs)

    @property
    def outputs(self) -> int:
        return math.prod(self.output_shape)


def layer_table(create: Callable[[], nnx.Module], input_shape: Sequence[int]) -> list[LayerRow]:
    """Returns a row for each layer of the network that `create` builds, in the order of the calls.

    MACs are those of the layer, whatever form a platform computes it in.

    Args:
      input_shape: [*spatial, C], without batch.
    """
    model = nnx.view(nnx.eval_shape(create), deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    rows: list[LayerRow] = []

    def forward(state: Any, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, state)
        with layers.listen() as calls:
            y = merged(x)
        paths = {id(node): trees.path_name(path) for path, node in nnx.iter_graph(merged)}
        rows.extend(_row(paths[id(layer)], layer, inp.shape[1:], out.shape[1:]) for layer, inp, out in calls)
        return y

    jax.eval_shape(forward, state, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    return rows


def _row(name: str, layer: Any, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> LayerRow:
    parameters = trees.count(nnx.state(layer, nnx.Param))
    kind, detail, macs = "norm", "", 0
    if hasattr(layer, "describe"):  # a layer that stands in a family's own file
        kind, detail, macs = layer.describe(in_shape, out_shape)
    elif isinstance(layer, layers.Linear):
        kind, macs = "linear", in_shape[-1] * out_shape[-1]
    elif isinstance(layer, layers.GlobalAveragePool):
        kind, detail = "pool", "global average"
    elif isinstance(layer, (layers.Conv, layers.Pool)):
        kernel = "x".join(map(str, layer.kernel_size))
        detail = f"{kernel}/{_axes(layer.strides)}, pad {_axes(layer.pads)}"
        if isinstance(layer, layers.Conv):
            kind = "conv"
            groups = layer.feature_group_count
            detail += f", {groups} groups" if groups > 1 else ""
            macs = math.prod(out_shape) * math.prod(layer.kernel_size) * in_shape[-1] // groups
        else:
            kind, detail = "pool", f"{layer.kind} {detail}{', ceil' if layer.ceil else ''}"
    return LayerRow(name, kind, detail, out_shape, parameters, macs)


def _axes(values: Any) -> str:
    """Returns `2` for (2, 2) and `1x2` for (1, 2)."""
    values = (values,) if isinstance(values, int) else tuple(values)
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def training_bytes(
    rows: Sequence[LayerRow], *, images: int, bytes_per_value: int, copies_of_parameters: int, resident_bytes: int = 0
) -> int:
    """Returns an estimate of a device's memory during training, bytes.

    All layer outputs are kept for the backward pass, which needs about the same again at its widest point; parameters
    are float32, in `copies_of_parameters` (the parameters, their gradient, momentum, moving average).

    Args:
      images: of one micro-batch on one device. bytes_per_value: of the activations.
    """
    outputs = sum(row.outputs for row in rows)
    widest = max(row.outputs for row in rows)
    activations = (outputs + 2 * widest) * images * bytes_per_value
    return activations + 4 * copies_of_parameters * sum(row.parameters for row in rows) + resident_bytes


def human(value: float) -> str:
    """Returns a number with three significant digits and a unit prefix: 25.6 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if float(f"{value:.3g}") >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g} "


def write(rows: Sequence[LayerRow], path: Path, title: str) -> None:
    """Writes the layer table with its totals as a text file."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("layer", "kind", "kernel/stride, padding"):
        table.add_column(heading, no_wrap=True)
    for heading in ("output", "parameters", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shape = "x".join(map(str, row.output_shape))
        table.add_row(row.name, row.kind, row.detail, shape, f"{row.parameters:,}", f"{row.macs:,}")
    table.add_section()
    totals = (sum(row.parameters for row in rows), sum(row.macs for row in rows))
    table.add_row("total", "", "", "", *(f"{total:,}" for total in totals))
    with path.open("w", encoding="utf-8") as file:
        Console(file=file, width=120).print(table)
