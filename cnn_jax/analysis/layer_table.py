"""The layer table of a network: shapes, parameters, multiply-accumulates, memory, receptive fields.

Nothing is computed, only traced. All numbers are for one image. MACs are multiply-accumulates of convolutions and
linear layers (FLOPs = 2 x MACs). Activations are the outputs of convolutions, pooling and linear layers, and the image;
normalization, activation functions, additions and concatenations count as done in place. The input of every layer is
kept for the gradient, each array once: a convolution needs it for its kernel's gradient, normalization and pooling need
it for their own gradients, and it is the output of the activation function before.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# jax is imported by the functions, so that --help answers at once.


@dataclass(frozen=True)
class LayerRow:
    """One layer as it was called, for one image."""

    name: str  # path of the module: conv2_x/0/conv1
    kind: str  # conv, linear, pool, norm
    detail: str  # kernel / stride, padding
    output_shape: tuple[int, ...]  # without batch
    parameters: int
    macs: int  # multiply-accumulates for one example: convolutions and linear layers only (FLOPs = 2 x MACs)
    biases: int = 0  # the biases of convolutions and linear layers
    statistics: int = 0  # running averages of BatchNorm
    kept: int = 0  # elements of the input that the gradient needs, if no layer before has the same input
    receptive_field: tuple[int, ...] | None = None  # pixels along each spatial axis of the image
    jump: tuple[int | None, ...] | None = None  # pixels from one position to the next; None: no positions are left
    dropped: tuple[int, ...] = ()  # positions at the end of each axis of the input that no window reaches

    @property
    def outputs(self) -> int:
        return math.prod(self.output_shape)

    @property
    def activations(self) -> int:
        """Elements of the output that need memory of their own."""
        return 0 if self.kind == "norm" else self.outputs

    @property
    def stage(self) -> str:
        """The first part of the name, without the number of a layer in its stage: conv3 for conv3_2/conv."""
        return stage_of(self.name)


def stage_of(name: str) -> str:
    """Returns the stage of a layer: the first part of its name, without its number in the stage."""
    return re.sub(r"_\d+$", "", name.split("/")[0])


@dataclass(frozen=True)
class Totals:
    """Sums over the layers of a network, for one image. The parameters of a layer that is called twice count once."""

    parameters: int
    weights: int  # kernels of convolutions and linear layers
    biases: int
    norm_parameters: int  # scales and offsets
    norm_statistics: int  # running averages
    conv_parameters: int  # of everything except linear layers
    linear_parameters: int
    macs: int
    conv_macs: int
    linear_macs: int
    activations: int  # elements, with the image
    kept: int  # elements, for the gradient
    receptive_field: tuple[int, ...] | None  # the largest of a convolution, along each spatial axis
    jump: tuple[int | None, ...] | None  # of the last convolution


def layer_table(create: Callable[[], Any], input_shape: Sequence[int]) -> list[LayerRow]:
    """Returns a row for each layer of the network that `create` builds, in the order of the calls.

    MACs are those of the layer, whatever form a platform computes it in.

    Args:
      input_shape: [*spatial, C], without batch.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from cnn_jax.analysis import receptive_field
    from cnn_jax.core import trees
    from cnn_jax.nn.hooks import capture

    model = nnx.view(nnx.eval_shape(create), deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    called: list[tuple[str, Any]] = []

    def forward(state: Any, x: jax.Array) -> Any:
        merged = nnx.merge(graphdef, state)
        with capture() as calls:
            merged(x)
        paths = {id(node): trees.path_name(path) for path, node in nnx.iter_graph(merged)}
        called.extend((paths[id(layer)], layer) for layer, _, _ in calls)
        return [(inp, out) for _, inp, out in calls]  # so that the jaxpr's outputs are the layers' arrays

    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    traced = jax.make_jaxpr(forward)(state, image)
    inputs = [None] * (len(traced.jaxpr.invars) - 1) + [receptive_field.image(len(input_shape) - 1)]
    fields = receptive_field.receptive_fields(traced, inputs)[1::2]
    arrays, rows, kept = traced.jaxpr.outvars, [], set()
    for (name, layer), inp, out, field in zip(called, arrays[::2], arrays[1::2], fields, strict=True):
        in_shape, out_shape = inp.aval.shape[1:], out.aval.shape[1:]  # pyright: ignore[reportAttributeAccessIssue]
        kind, detail, macs = _describe(layer, in_shape, out_shape)
        parameters = dict(trees.named_leaves(nnx.as_pure(nnx.state(layer, nnx.Param))))
        row = LayerRow(
            name=name or "network",
            kind=kind,
            detail=detail,
            output_shape=out_shape,
            parameters=trees.count(parameters),
            macs=macs,
            biases=trees.count(parameters.get("bias", ())) if kind != "norm" else 0,
            statistics=trees.count(nnx.state(layer, nnx.BatchStat)),
            kept=0 if inp in kept else math.prod(in_shape),
            receptive_field=field.size if field else None,
            jump=field.jump if field else None,
            dropped=_dropped(layer, in_shape),
        )
        rows.append(row)
        kept.add(inp)
    return rows


def _describe(layer: Any, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
    """Returns (kind, detail, MACs)."""
    from cnn_jax.nn import layers, pooling

    if hasattr(layer, "describe"):  # a layer that a family defines in its own file
        return layer.describe(in_shape, out_shape)
    if isinstance(layer, layers.Linear):
        return "linear", "", in_shape[-1] * out_shape[-1]
    if isinstance(layer, pooling.GlobalAveragePool):
        return "pool", "global average", 0
    if isinstance(layer, pooling.AdaptiveAveragePool):
        return "pool", f"average to {layer.size}x{layer.size}", 0
    if isinstance(layer, layers.LocalResponseNorm):
        return "norm", f"local response {layer.size}", 0
    if isinstance(layer, layers.GroupNorm):
        return "norm", f"{layer.groups} groups", 0
    if isinstance(layer, layers.LayerNorm):
        return "norm", "layer", 0
    if isinstance(layer, layers.BatchNorm):
        return "norm", "", 0
    if not isinstance(layer, (layers.Conv, pooling.Pool)):
        raise TypeError(f"{type(layer).__name__} reports what it computes, but has no describe(in_shape, out_shape)")
    kernel = "x".join(map(str, layer.kernel_size))
    detail = f"{kernel}/{_axes(layer.strides)}, pad {_axes(layer.pads)}"
    if isinstance(layer, pooling.Pool):
        return "pool", f"{layer.kind} {detail}{', ceil' if layer.ceil else ''}", 0
    groups = layer.feature_group_count
    detail += f", dilation {_axes(layer.dilation)}" if max(layer.dilation) > 1 else ""
    detail += f", {groups} groups" if groups > 1 else ""
    return "conv", detail, math.prod(out_shape) * math.prod(layer.kernel_size) * in_shape[-1] // groups


def _dropped(layer: Any, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns how many positions at the end of each axis no window of a layer reaches, because its stride skips them.

    Padding does not count as a position; a window smaller than its stride leaves positions out by design.
    """
    from cnn_jax.nn import layers, pooling

    if not isinstance(layer, (layers.Conv, pooling.Pool)) or getattr(layer, "ceil", False):
        return ()
    found = []
    axes = (_along(value, len(in_shape) - 1) for value in (layer.kernel_size, layer.strides, layer.pads))
    for size, kernel, stride, padding in zip(in_shape, *axes, strict=False):
        rest = (size + 2 * padding - kernel) % stride if kernel >= stride else 0
        found.append(max(0, rest - padding))
    return tuple(found) if any(found) else ()


def _along(values: Any, axes: int) -> tuple[int, ...]:
    return (values,) * axes if isinstance(values, int) else tuple(values)


def dropped(rows: Sequence[LayerRow]) -> str:
    """Returns which layers drop positions, such as "conv1 (1), pool2 (0x1)"; "" if none does."""
    return ", ".join(f"{row.name} ({_axes(row.dropped)})" for row in _distinct(rows) if row.dropped)


def _axes(values: Any) -> str:
    """Returns `2` for (2, 2) and `1x2` for (1, 2)."""
    values = (values,) if isinstance(values, int) else tuple(values)
    return str(values[0]) if len(set(values)) == 1 else "x".join("-" if v is None else str(v) for v in values)


def block_of(name: str) -> str:
    """Returns the name of the block that a layer is in: `conv2_x/0` of conv2_x/0/conv1, `fire2` of fire2/squeeze."""
    found = re.match(r"[^/]+(/\d+(?=/))*", name)
    assert found is not None
    return found[0]


def totals(rows: Sequence[LayerRow], input_shape: Sequence[int] | None = None) -> Totals:
    """Returns the sums over layers, with images of `input_shape` [*spatial, C]; None: without the image, for a part."""
    distinct = _distinct(rows)
    convolutions = [row for row in rows if row.kind == "conv"]
    main_tower = [row for row in convolutions if not row.name.startswith("auxiliary")]
    seen = [row.receptive_field for row in main_tower if row.receptive_field]
    norm = [row for row in distinct if row.kind == "norm"]
    parameters = sum(row.parameters for row in distinct)
    linear_parameters = sum(row.parameters for row in distinct if row.kind == "linear")
    biases, norm_parameters = sum(row.biases for row in distinct), sum(row.parameters for row in norm)
    return Totals(
        parameters=parameters,
        weights=parameters - biases - norm_parameters,
        biases=biases,
        norm_parameters=norm_parameters,
        norm_statistics=sum(row.statistics for row in distinct),
        conv_parameters=parameters - linear_parameters,
        linear_parameters=linear_parameters,
        macs=sum(row.macs for row in rows),
        conv_macs=sum(row.macs for row in convolutions),
        linear_macs=sum(row.macs for row in rows if row.kind == "linear"),
        activations=(math.prod(input_shape) if input_shape else 0) + sum(row.activations for row in rows),
        kept=sum(row.kept for row in rows),
        receptive_field=tuple(map(max, zip(*seen, strict=True))) if seen else None,
        jump=main_tower[-1].jump if main_tower else None,
    )


def _distinct(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Returns one row for each layer, however often it is called."""
    return list({row.name: row for row in rows}.values())


def stages(rows: Sequence[LayerRow]) -> dict[str, list[LayerRow]]:
    """Returns the rows of each stage, such as conv2_x, in the order of their first layers."""
    found: dict[str, list[LayerRow]] = {}
    for row in rows:
        found.setdefault(row.stage, []).append(row)
    return found


def training_bytes(
    rows: Sequence[LayerRow],
    *,
    images: int,
    bytes_per_value: int,
    copies_of_parameters: float,
    resident_bytes: int = 0,
    remat: bool = False,
    fused: bool = False,
    loops: bool = False,
) -> int:
    """Returns an estimate of a device's memory during training, bytes.

    What the gradients need is kept until the backward pass, which frees it from the last layer to the first and needs
    the gradients of one layer's output and input at a time. Parameters are float32, with `copies_of_parameters` copies
    (the parameters, their gradient, the optimizer's state, moving average).

    Args:
      images: of one micro-batch on one device. bytes_per_value: of the activations.
      remat: only the outputs of blocks are kept, and those of the layers of one block at a time.
      fused: XLA computes a normalization inside of a block again, as part of the layer that takes it, as for TPUs.
      loops: most blocks are in a loop, outside of which XLA computes nothing again (`nn.scan.Repeated`).
    """
    if remat:
        of_blocks: dict[str, list[int]] = {}
        for row in rows:
            of_blocks.setdefault(block_of(row.name), []).append(row.outputs)
        outputs = sum(sizes[-1] for sizes in of_blocks.values()) + max(map(sum, of_blocks.values()))
        most = outputs + 2 * max(row.outputs for row in rows)
    else:
        kept, most = 0, 0
        for row, size in zip(rows, _kept(rows, fused and not loops, loops), strict=True):
            kept += size
            most = max(most, kept + row.outputs + row.kept)
    parameters = sum(row.parameters for row in _distinct(rows))
    return most * images * bytes_per_value + round(4 * copies_of_parameters * parameters) + resident_bytes


def _kept(rows: Sequence[LayerRow], fused: bool, loops: bool) -> Iterator[int]:
    """Yields how many values compilers keep for the gradients of each layer.

    Its input; and its output, if that is no layer's input, but a part of one: XLA keeps both parts and concatenation.
    A loop keeps the outputs of normalizations, too: the activation function behind them needs them.
    """
    for before, row, after in zip((None, *rows[:-1]), rows, (*rows[1:], None), strict=True):
        is_again = (
            fused
            and row.kind != "norm"
            and before is not None
            and before.kind == "norm"
            and before.outputs == row.kept
            and block_of(before.name) == block_of(row.name)
        )
        is_part = row.kind != "norm" and after is not None and after.kept != row.outputs
        is_extra = is_part or (loops and row.kind == "norm")
        yield (0 if is_again else row.kept) + (row.outputs if is_extra else 0)
