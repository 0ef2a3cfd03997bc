"""The layer table of a network as sheets for people: layers, stages, totals, networks side by side."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_jax.analysis.layer_table import LayerRow, Totals, dropped, layer_table, stages, totals
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import StorageError, check
from cnn_jax.core.files import write_text
from cnn_jax.display import plots
from cnn_jax.display.tables import Share, Sheet, Short, render, screen

# jax is imported by the functions, so that --help answers at once.


@dataclass(frozen=True)
class TracedNetwork:
    """A configuration's network, for printing."""

    label: str
    input_shape: tuple[int, ...]
    bytes_per_value: int  # of the activations
    rows: Sequence[LayerRow]

    @property
    def totals(self) -> Totals:
        return totals(self.rows, self.input_shape)

    @property
    def stages(self) -> dict[str, Totals]:
        return {name: totals(rows) for name, rows in stages(self.rows).items()}


def trace(config: Any) -> list[LayerRow]:
    """Returns the layer table of the network of a configuration that `check_config` has passed.

    Raises:
      UserError: the network cannot be built.
    """
    import functools

    from cnn_jax import models
    from cnn_jax.config.fields import model_fields
    from cnn_jax.data import prepared

    if config.data.source == "tfds" and not config.data.num_classes:
        prepared.full_name(config.data.name, prepared.data_dir(config.data.dir))  # refuses a mistyped name
    num_classes = len(config.data.classes) or config.data.num_classes
    check(
        num_classes > 0,
        f"config.data.num_classes is 0, as many as {config.data.name!r} has, which is not opened here: give the number",
    )
    shape = image_shape(config)
    given = dict(num_classes=num_classes, input_shape=shape) | model_fields(config)
    return layer_table(functools.partial(models.create, config.model.name, **given), shape)


def image_shape(config: Any) -> tuple[int, ...]:
    return (*config.data.image_size, config.data.channels)


def network(config: Any, rows: Sequence[LayerRow], changes: Sequence[str] = ()) -> TracedNetwork:
    """Returns a configuration's network with its layer table; `changes` to the file (FIELD=VALUE) go into its label."""
    label = ", ".join([f"{config.model.name} for {config.data.name}", *changes])
    return TracedNetwork(label, image_shape(config), 2 if config.precision == "bfloat16" else 4, rows)


def write(config: Any, rows: Sequence[LayerRow], path: Path) -> None:
    """Writes what the command prints about a configuration's network to a text file."""
    write_text(path, render(sheets(network(config, rows)), "text"))


def show(configurations: Sequence[Configuration], form: str, plot: Path | None = None) -> None:
    """Prints the layer table of a configuration's network, or several networks side by side.

    Args:
      configurations: those that `check_config` has passed. form: text, markdown, csv or json.
      plot: PNG file to draw parameters and MACs of each layer in.

    Raises:
      UserError: a network cannot be built. StorageError: the picture cannot be written.
    """
    networks = [network(one.config, trace(one.config), one.overrides) for one in configurations]
    if form == "json":
        print(json.dumps(as_json(networks), indent=1))
    else:
        print(render(comparison(networks) if len(networks) > 1 else sheets(networks[0]), form, width=screen()), end="")
    if plot is None:
        return
    try:
        plots.plot_layers({one.label: bars(one.rows) for one in networks}, plot)
    except OSError as error:
        raise StorageError(f"--plot: {str(plot)!r} cannot be written: {error.strerror or error}") from None


# ---------------------------------------------------------------- tables


def sheets(one: TracedNetwork) -> list[Sheet]:
    """Returns the layers, the stages and the totals of a network."""
    size, whole = one.bytes_per_value, one.totals
    shape = "x".join(map(str, one.input_shape))
    where = f"; positions dropped at the border: {found}" if (found := dropped(one.rows)) else ""
    memory = ("bytes out", "bytes kept")
    layers = [
        (
            *(
                row.name,
                row.kind,
                re.sub(", pad 0(?=,|$)", "", row.detail),
                row.output_shape,
                row.parameters,
                Short(row.macs),
            ),
            *(Short(row.activations * size), Short(row.kept * size), row.receptive_field, row.jump),
        )
        for row in one.rows
    ]
    by_stage = [
        (
            *(name, len(rows), rows[-1].output_shape[:-1], sums.parameters, share(sums.parameters, whole.parameters)),
            *(Short(sums.macs), share(sums.macs, whole.macs), Short(sums.activations * size), Short(sums.kept * size)),
        )
        for (name, rows), sums in zip(stages(one.rows).items(), one.stages.values(), strict=True)
    ]
    headings = ("layer", "kind", "kernel/stride", "output", "parameters", "MACs", *memory)
    stage_headings = (
        "stage",
        "layers",
        "map",
        "parameters",
        "share of parameters",
        "MACs",
        "share of MACs",
        *memory,
    )
    return [
        Sheet(
            f"{one.label}, one image of {shape}{where and f'; dropped at the border: {where}'}",
            (*headings, "receptive field", "jump"),
            layers,
        ),
        Sheet("By stage", stage_headings, by_stage),
        Sheet("Totals", ("quantity", "value"), list(quantities(one).items())),
    ]


def share(part: int, whole: int) -> Share | None:
    return Share(part / whole) if whole else None


def quantities(one: TracedNetwork) -> dict[str, Any]:
    """Returns the totals under names for people."""
    sums, size = one.totals, one.bytes_per_value
    main = totals([row for row in one.rows if not row.name.startswith("auxiliary")])
    apart = {
        "parameters of the main network": main.parameters,
        "parameters of auxiliary heads, for training only": sums.parameters - main.parameters,
        "linear layers' share of the main network": share(main.linear_parameters, main.parameters),
    }
    return {
        "parameters": sums.parameters,
        **(apart if main.parameters < sums.parameters else {}),
        "parameters of convolutions and normalization": sums.conv_parameters,
        "parameters of linear layers": sums.linear_parameters,
        "linear layers' share of parameters": share(sums.linear_parameters, sums.parameters),
        "weights": sums.weights,
        "biases": sums.biases,
        "normalization: scales and offsets": sums.norm_parameters,
        "normalization: running statistics": sums.norm_statistics,
        "MACs": sums.macs,
        "MACs of convolutions": sums.conv_macs,
        "MACs of linear layers": sums.linear_macs,
        "linear layers' share of MACs": share(sums.linear_macs, sums.macs),
        "activations, elements": sums.activations,
        "activations, bytes": sums.activations * size,
        "kept for the gradient, bytes": sums.kept * size,
        "receptive field of the last convolution": sums.receptive_field,
        "jump of the last convolution": sums.jump,
    }


def comparison(networks: Sequence[TracedNetwork]) -> list[Sheet]:
    """Returns the totals of networks side by side, and their parameters and MACs by stage, each with its ratio."""
    labels = [one.label for one in networks]
    by_stage = [one.stages for one in networks]
    parameters = [{name: sums.parameters for name, sums in found.items()} for found in by_stage]
    macs = [{name: Short(sums.macs) for name, sums in found.items()} for found in by_stage]
    return [
        beside("Totals", "quantity", labels, [quantities(one) for one in networks]),
        beside("Parameters by stage", "stage", labels, parameters),
        beside("MACs by stage", "stage", labels, macs),
    ]


def beside(title: str, heading: str, labels: Sequence[str], columns: Sequence[dict[str, Any]]) -> Sheet:
    """Returns a table of columns side by side, with the ratio of each to the first, without rows of zeros only."""
    names: list[str] = []
    for column in columns:  # a row that only one column has follows the row before it in that column
        place = 0
        for name in column:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    lines = []
    for name in names:
        first, *others = (column.get(name) for column in columns)
        if any((first, *others)):
            lines.append((name, first, *(cell for value in others for cell in (value, ratio(value, first)))))
    ratios = ["ratio"] if len(labels) == 2 else [f"ratio of {label}" for label in labels[1:]]
    pairs = zip(labels[1:], ratios, strict=True)
    return Sheet(title, (heading, labels[0], *(text for pair in pairs for text in pair)), lines)


def ratio(value: Any, first: Any) -> float | None:
    """Returns the ratio of two counts; None for shares and sizes, and if the divisor is zero."""
    return value / first if isinstance(value, int) and isinstance(first, int) and first else None


def as_json(networks: Sequence[TracedNetwork]) -> Any:
    """Returns the tables as plain values: of one network, or a list with the ratios of totals to the first's."""
    found = []
    for one in networks:
        layers = [asdict(row) | dict(activations=row.activations) for row in one.rows]
        by_stage = {name: asdict(sums) for name, sums in one.stages.items()}
        entry: dict[str, Any] = dict(label=one.label, input_shape=one.input_shape, bytes_per_value=one.bytes_per_value)
        entry |= dict(layers=layers, stages=by_stage, totals=asdict(one.totals))
        if found:
            first = found[0]["totals"].items()
            entry["ratios"] = {name: ratio(entry["totals"][name], value) for name, value in first}
        found.append(entry)
    return found if len(found) > 1 else found[0]


def bars(rows: Sequence[LayerRow], most: int = 24) -> list[tuple[str, int, int, int, int]]:
    """Returns what a picture shows: the layers with MACs if they are at most `most`, otherwise blocks or stages.

    Pooling and normalization count with the layer before them.

    Returns:
      (name, parameters, parameters of linear layers, MACs, MACs of linear layers) of each part.
    """
    parts: dict[str, list[LayerRow]] = {}
    for depth in range(max(row.name.count("/") for row in rows) + 1, -1, -1):
        name, parts = rows[0].name, {}
        for row in rows:
            if row.macs:
                name = ("/".join(row.name.split("/")[:depth]) or row.stage).removesuffix("/conv")
            parts.setdefault(name, []).append(row)
        if len(parts) <= most:
            break
    sums = {name: totals(part) for name, part in parts.items()}
    return [(name, s.parameters, s.linear_parameters, s.macs, s.linear_macs) for name, s in sums.items()]
