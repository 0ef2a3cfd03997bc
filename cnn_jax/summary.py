"""The layer table of a network: shapes, parameters, multiply-accumulates, memory, receptive fields.

    python -m cnn_jax.summary --config=configs/resnet50.py:imagenet2012
    python -m cnn_jax.summary --config=configs/resnet50.py --format=csv
    python -m cnn_jax.summary --config=configs/resnet50.py --compare=configs/resnet18.py --plot=layers.png
    python -m cnn_jax.summary --config=configs/resnet50.py:imagenet2012 --compare="model.head=fc"

Nothing is computed, only traced, and no data set is opened. All numbers are for one image. MACs are
multiply-accumulates of convolutions and linear layers (FLOPs = 2 x MACs).
Activations are the outputs of convolutions, pooling and linear layers, and the image; normalisation, activation
functions, additions and concatenations count as done in place. Kept for the gradient is the input of every layer, each
array once: a convolution needs it for its kernel's gradient, normalisation and pooling for their own, and it is the
output of the activation function before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# jax and rich are imported by the functions, so that --help answers at once.


@dataclass(frozen=True)
class LayerRow:
    """One layer as it was called, for one image."""

    name: str  # path of the module: conv2_x/0/conv1
    kind: str  # conv, linear, pool, norm
    detail: str  # kernel / stride, padding
    output_shape: tuple[int, ...]  # without batch
    parameters: int
    macs: int  # multiply-accumulates for one example: convolutions and linear layers only (FLOPs = 2 x MACs)
    biases: int = 0  # of the parameters, those of convolutions and linear layers
    statistics: int = 0  # running averages of BatchNorm
    kept: int = 0  # elements of the input that the gradient needs, if no layer before has the same input
    receptive_field: tuple[int, ...] | None = None  # pixels along each spatial axis of the image
    jump: tuple[int | None, ...] | None = None  # pixels from one position to the next; None: no positions are left

    @property
    def outputs(self) -> int:
        return math.prod(self.output_shape)

    @property
    def activations(self) -> int:
        """Elements of the output that need memory of their own."""
        return 0 if self.kind == "norm" else self.outputs

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Totals:
    """Sums over the layers of a network, for one image. What a layer that is called twice has counts once."""

    parameters: int
    weights: int  # kernels of convolutions and linear layers
    biases: int
    norm_parameters: int  # scales and offsets
    norm_statistics: int  # running averages
    conv_parameters: int  # of all that is no linear layer
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

    from cnn_jax import receptive_field, trees
    from cnn_jax.models import cpu
    from cnn_jax.models.base import listen

    model = nnx.view(nnx.eval_shape(create), deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    called: list[tuple[str, Any]] = []

    def forward(state: Any, x: jax.Array) -> Any:
        merged = nnx.merge(graphdef, state)
        with listen() as calls:
            merged(x)
        paths = {id(node): trees.path_name(path) for path, node in nnx.iter_graph(merged)}
        called.extend((paths[id(layer)], layer) for layer, _, _ in calls)
        return [(inp, out) for _, inp, out in calls]  # so that the jaxpr's outputs are what goes through the layers

    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with cpu.stock():  # one operation for each layer
        traced = jax.make_jaxpr(forward)(state, image)
    inputs = [None] * (len(traced.jaxpr.invars) - 1) + [receptive_field.image(len(input_shape) - 1)]
    fields = receptive_field.receptive_fields(traced, inputs)[1::2]
    arrays, rows, kept = traced.jaxpr.outvars, [], set()
    for (name, layer), inp, out, field in zip(called, arrays[::2], arrays[1::2], fields, strict=True):
        in_shape, out_shape = inp.aval.shape[1:], out.aval.shape[1:]  # pyright: ignore[reportAttributeAccessIssue]
        kind, detail, macs = _describe(layer, in_shape, out_shape)
        parameters = dict(trees.named_leaves(nnx.as_pure(nnx.state(layer, nnx.Param))))
        row = LayerRow(
            name=name,
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
        )
        rows.append(row)
        kept.add(inp)
    return rows


def _describe(layer: Any, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
    """Returns (kind, detail, MACs)."""
    from cnn_jax.models import layers, pooling

    if hasattr(layer, "describe"):  # a layer that stands in a family's own file
        return layer.describe(in_shape, out_shape)
    if isinstance(layer, layers.Linear):
        return "linear", "", in_shape[-1] * out_shape[-1]
    if isinstance(layer, pooling.GlobalAveragePool):
        return "pool", "global average", 0
    if isinstance(layer, pooling.AdaptiveAveragePool):
        return "pool", f"average to {layer.size}x{layer.size}", 0
    if isinstance(layer, layers.LocalResponseNorm):
        return "norm", f"local response {layer.size}", 0
    if not isinstance(layer, (layers.Conv, pooling.Pool)):
        return "norm", "", 0
    kernel = "x".join(map(str, layer.kernel_size))
    detail = f"{kernel}/{_axes(layer.strides)}, pad {_axes(layer.pads)}"
    if isinstance(layer, pooling.Pool):
        return "pool", f"{layer.kind} {detail}{', ceil' if layer.ceil else ''}", 0
    groups = layer.feature_group_count
    detail += f", dilation {_axes(layer.dilation)}" if max(layer.dilation) > 1 else ""
    detail += f", {groups} groups" if groups > 1 else ""
    return "conv", detail, math.prod(out_shape) * math.prod(layer.kernel_size) * in_shape[-1] // groups


def _axes(values: Any) -> str:
    """Returns `2` for (2, 2) and `1x2` for (1, 2)."""
    values = (values,) if isinstance(values, int) else tuple(values)
    return str(values[0]) if len(set(values)) == 1 else "x".join("-" if v is None else str(v) for v in values)


def totals(rows: Sequence[LayerRow], input_shape: Sequence[int]) -> Totals:
    """Returns the sums over the layers of a network for images of `input_shape` [*spatial, C]."""
    distinct = list({row.name: row for row in rows}.values())
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
        activations=math.prod(input_shape) + sum(row.activations for row in rows),
        kept=sum(row.kept for row in rows),
        receptive_field=tuple(map(max, zip(*seen, strict=True))) if seen else None,
        jump=main_tower[-1].jump if main_tower else None,
    )


def stages(rows: Sequence[LayerRow]) -> dict[str, list[LayerRow]]:
    """Returns the rows of each stage: the first part of their names, such as conv2_x."""
    found: dict[str, list[LayerRow]] = {}
    for row in rows:
        found.setdefault(row.stage, []).append(row)
    return found


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
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("layer", "kind", "kernel/stride, padding"):
        table.add_column(heading, no_wrap=True)
    for heading in ("output", "parameters", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shape = "x".join(map(str, row.output_shape))
        table.add_row(row.name, row.kind, row.detail, shape, f"{row.parameters:,}", f"{row.macs:,}")
    table.add_section()
    sums = (sum(row.parameters for row in rows), sum(row.macs for row in rows))
    table.add_row("total", "", "", "", *(f"{total:,}" for total in sums))
    with path.open("w", encoding="utf-8") as file:
        Console(file=file, width=120).print(table)


# ---------------------------------------------------------------- the command


@dataclass(frozen=True)
class Network:
    """A configuration's network, as the command prints it."""

    label: str
    input_shape: tuple[int, ...]
    bytes_per_value: int
    rows: list[LayerRow]

    @property
    def totals(self) -> Totals:
        return totals(self.rows, self.input_shape)


@dataclass(frozen=True)
class Sheet:
    """A table of raw values under headings."""

    title: str
    headings: tuple[str, ...]
    lines: list[tuple[Any, ...]]


def network(config: Any, label: str) -> Network:
    """Returns the network of a configuration; raises UserError where it cannot be built."""
    import functools

    from cnn_jax import models
    from cnn_jax.config import check_config, model_fields

    check_config(config)
    shape = (*config.data.image_size, config.data.channels)
    given = dict(num_classes=config.data.num_classes, input_shape=shape) | model_fields(config)
    create = functools.partial(models.create, config.model.name, **given)
    return Network(label, shape, 2 if config.precision == "bfloat16" else 4, layer_table(create, shape))


def sheets(one: Network) -> list[Sheet]:
    """Returns the layers, the stages and the totals of a network."""
    size = one.bytes_per_value
    shape = "x".join(map(str, one.input_shape))
    layers = [
        (
            *(row.name, row.kind, row.detail, row.output_shape, row.parameters, row.statistics, row.macs),
            *(row.activations * size, row.kept * size, row.receptive_field, row.jump),
        )
        for row in one.rows
    ]
    by_stage = []
    for name, rows in stages(one.rows).items():
        sums = totals(rows, (0,))
        memory = (sums.activations * size, sums.kept * size)
        by_stage.append((name, len(rows), rows[-1].output_shape, sums.parameters, sums.macs, *memory))
    headings = ("layer", "kind", "kernel/stride, padding", "output", "parameters", "statistics", "MACs")
    memory = ("output, bytes", "kept, bytes")
    return [
        Sheet(f"{one.label}, one image of {shape}", (*headings, *memory, "receptive field", "jump"), layers),
        Sheet("By stage", ("stage", "layers", "output", "parameters", "MACs", *memory), by_stage),
        Sheet("Totals", ("quantity", "value"), list(quantities(one).items())),
    ]


def quantities(one: Network) -> dict[str, Any]:
    """Returns the totals under names for people."""
    sums, size = one.totals, one.bytes_per_value
    return {
        "parameters": sums.parameters,
        "weights": sums.weights,
        "biases": sums.biases,
        "normalisation: scales and offsets": sums.norm_parameters,
        "normalisation: running statistics": sums.norm_statistics,
        "parameters of convolutions and normalisation": sums.conv_parameters,
        "parameters of linear layers": sums.linear_parameters,
        "MACs": sums.macs,
        "MACs of convolutions": sums.conv_macs,
        "MACs of linear layers": sums.linear_macs,
        "activations, elements": sums.activations,
        "activations, bytes": sums.activations * size,
        "kept for the gradient, bytes": sums.kept * size,
        "receptive field of the last convolution": sums.receptive_field,
        "jump of the last convolution": sums.jump,
    }


def comparison(networks: Sequence[Network]) -> list[Sheet]:
    """Returns totals side by side, with the ratio of each to the first, and parameters and MACs by stage."""
    labels = tuple(one.label for one in networks)
    columns = [quantities(one) for one in networks]
    lines = []
    for name, first in columns[0].items():
        values = [column[name] for column in columns]
        ratios = [value / first if isinstance(first, int) and first else None for value in values[1:]]
        lines.append((name, *values, *ratios))
    grouped = [{name: totals(rows, (0,)) for name, rows in stages(one.rows).items()} for one in networks]
    found = [Sheet("Totals", ("quantity", *labels, *(f"{label} / first" for label in labels[1:])), lines)]
    for field, title in (("parameters", "Parameters by stage"), ("macs", "MACs by stage")):
        names = dict.fromkeys(name for group in grouped for name in group)
        values = [(name, *(getattr(group.get(name), field, None) for group in grouped)) for name in names]
        found.append(Sheet(title, ("stage", *labels), values))
    return found


def _cell(value: Any, *, exact: bool = False) -> str:
    if value is None:
        return "" if exact else "-"
    if isinstance(value, tuple):
        return "x".join("-" if v is None else str(v) for v in value) if any(v is not None for v in value) else "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not exact else str(value)


def render(found: Sequence[Sheet], form: str) -> str:
    """Returns tables as "text", "markdown" or "csv" (the first table only, with plain numbers)."""
    import csv
    import io

    file = io.StringIO()
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(found[0].headings)
        writer.writerows([_cell(value, exact=True) for value in line] for line in found[0].lines)
        return file.getvalue()
    for sheet in found:
        numeric = [not any(isinstance(line[i], str) for line in sheet.lines) for i in range(len(sheet.headings))]
        lines = [[_cell(value) for value in line] for line in sheet.lines]
        if form == "markdown":
            rule = ("---:" if right else "---" for right in numeric)
            body = "\n".join(f"| {' | '.join(line)} |" for line in (sheet.headings, rule, *lines))
            file.write(f"**{sheet.title}**\n\n{body}\n\n")
            continue
        from rich.console import Console
        from rich.table import Table

        table = Table(title=sheet.title, title_justify="left", box=None, pad_edge=False)
        for heading, right in zip(sheet.headings, numeric, strict=True):
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        Console(file=file, width=500).print(table, markup=False)
        file.write("\n")
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines()) + "\n"


def as_json(one: Network) -> dict[str, Any]:
    """Returns a network's table as plain values."""
    layers = [asdict(row) | dict(activations=row.activations) for row in one.rows]
    by_stage = {name: asdict(totals(rows, (0,))) for name, rows in stages(one.rows).items()}
    return {
        "label": one.label,
        "input_shape": one.input_shape,
        "bytes_per_value": one.bytes_per_value,
        "layers": layers,
        "stages": by_stage,
        "totals": asdict(one.totals),
    }


def other_config(config: Any, text: str) -> Any:
    """Returns the configuration of --compare: [FILE[:DATASET]] [FIELD=VALUE ...]; without FILE that of --config.

    Raises:
      UserError: no such file or field, a value of another type.
    """
    import ast
    import runpy
    import shlex

    from cnn_jax.errors import UserError

    first, *rest = shlex.split(text) or [""]
    try:
        if "=" in first:
            rest, other = [first, *rest], config.copy_and_resolve_references()
        else:
            file, _, argument = first.partition(":")
            other = runpy.run_path(file)["get_config"](*[argument] if argument else [])
        other.lock()
        for change in rest:
            field, _, value = change.removeprefix("--config.").partition("=")
            *path, last = field.split(".")
            target = other
            for name in path:
                target = target[name]
            if last not in target:
                raise UserError(f"--compare {text!r}: the configuration has no field {field!r}")
            try:
                target[last] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                target[last] = value
    except (OSError, KeyError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        if isinstance(error, UserError):
            raise
        message = str(error).split("\n")[0]
        raise UserError(f"--compare {text!r} is no configuration with fields to change: {message}") from None
    return other


if __name__ == "__main__":
    import json

    from absl import flags

    from cnn_jax import commandline, plots
    from cnn_jax.errors import StorageError, check

    flags.adopt_module_key_flags(commandline)  # --help shows --config
    _FORMAT = flags.DEFINE_enum("format", "text", ["text", "markdown", "csv", "json"], "What to print.")
    _COMPARE = flags.DEFINE_multi_string(
        "compare",
        [],
        'Another network beside that of --config: "[FILE[:DATASET]] [model.FIELD=VALUE ...]"; repeatable.',
    )
    _PLOT = flags.DEFINE_string("plot", None, "PNG file to draw parameters and MACs of each layer in.")

    def start() -> None:
        """Runs what the flags say."""
        config = commandline.needed_config()
        check(
            _PLOT.value is None or _PLOT.value.endswith(".png"),
            f"--plot is {_PLOT.value!r}, but must be a file that ends in .png",
        )
        networks = [network(config, f"{config.model.name} for {config.data.name}")]
        networks += [network(other_config(config, text), text) for text in _COMPARE.value]
        if _FORMAT.value == "json":
            print(
                json.dumps([as_json(one) for one in networks] if len(networks) > 1 else as_json(networks[0]), indent=1)
            )
        else:
            print(render(comparison(networks) if len(networks) > 1 else sheets(networks[0]), _FORMAT.value), end="")
        if _PLOT.value:
            try:
                plots.plot_layers(
                    {one.label: [(r.name, r.parameters, r.macs) for r in one.rows] for one in networks},
                    Path(_PLOT.value),
                )
            except OSError as error:
                raise StorageError(f"--plot: {_PLOT.value!r} cannot be written: {error.strerror or error}") from None

    commandline.launch(start)
