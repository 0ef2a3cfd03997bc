"""A page for each network, with numbers and a drawing made from its module, and the page of all of them."""

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drawing
from cells import field_table

from cnn_jax import models
from cnn_jax.analysis import layer_sheets
from cnn_jax.analysis.layer_table import LayerRow, layer_table, totals
from cnn_jax.display.tables import render

ROOT = Path(__file__).parents[2]
IDEAS: dict[str, dict[str, str]] = tomllib.loads((ROOT / "docs" / "site" / "networks.toml").read_text(encoding="utf-8"))

GROUPS = {  # headings of the navigation -> modules of cnn_jax.models
    "LeNet and small networks": ("toy", "lenet", "mlp", "local", "flattened", "dilated"),
    "AlexNet and VGG": ("alexnet", "vgg"),
    "NiN, GoogLeNet, SqueezeNet": ("nin", "googlenet", "squeezenet"),
    "Residual networks": ("resnet",),
    "Sequences and clips": ("conv1d", "c3d"),
}


def generated() -> Mapping[str, str]:
    """Returns the text of each page by its place in the site."""
    return {"networks/index.md": index(), **{f"networks/{name}.md": page(name) for name in IDEAS}}


def navigation() -> list[Any]:
    """Returns the entries of the navigation: the page of all networks, and a group for each kind."""
    groups: dict[str, list[dict[str, str]]] = {}
    for name, idea in IDEAS.items():
        groups.setdefault(group(name), []).append({idea["title"]: f"networks/{name}.md"})
    return ["networks/index.md", *({heading: entries} for heading, entries in groups.items())]


def group(name: str) -> str:
    """Returns the heading of the navigation that a network is under."""
    return next(heading for heading, modules in GROUPS.items() if models.MODELS[name].module in modules)


@functools.cache
def table(name: str) -> list[LayerRow]:
    """Returns the layer table of a network with its defaults."""
    return layer_table(functools.partial(models.create, name), models.fields(name)["input_shape"])


def shape(name: str) -> str:
    return "x".join(map(str, models.fields(name)["input_shape"]))


@functools.cache
def results() -> dict[str, dict[str, str]]:
    """Returns the rows of the table of docs/results.md that has every network on its bundled data, by network."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    header, _, *rows = next(
        block for block in re.findall(r"(?:^\|.*\n)+", text, re.M) if "| network |" in block
    ).splitlines()
    names = cells(header)
    return {row["network"]: row for row in (dict(zip(names, cells(line), strict=True)) for line in rows)}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def index() -> str:
    lines = [
        "# The family",
        "",
        "Every network with its paper's layers, sizes and fields. Parameters and MACs are those of the default fields;",
        "tests compare them with the papers. MACs are multiply-accumulates of convolutions and linear layers for one",
        "image; FLOPs are twice as many. `cnn_jax summary --config=NAME` prints the layer table of each.",
        "",
        "![Parameters and MACs of every network](../family.png)",
        "",
        "| network | name | source | parameters | MACs per image | image |",
        "|---|---|---|---:|---:|---|",
    ]
    for name, idea in IDEAS.items():
        sums = totals(table(name))
        source = f"[{idea['source']}]({idea['url']})" if "url" in idea else idea["source"]
        lines.append(
            f"| [{idea['title']}]({name}.md) | `{name}` | {source} | {sums.parameters:,} | {sums.macs:,} "
            f"| {shape(name)} |"
        )
    return "\n".join(lines) + "\n\n" + (ROOT / "docs" / "site" / "family.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    """Returns the page of a network: idea, drawing, numbers, result, fields, recipe, layer table."""
    idea, rows = IDEAS[name], table(name)
    sums = totals(rows)
    source = f"[{idea['source']}]({idea['url']})" if "url" in idea else idea["source"]
    seen = "x".join(map(str, sums.receptive_field)) if sums.receptive_field else "all"
    facts = {
        "source": source,
        "parameters": f"{sums.parameters:,}",
        "MACs per image": f"{sums.macs:,}",
        "image": shape(name),
        "receptive field of the last convolution": f"{seen} pixels",
    }
    lines = [
        f"# {idea['title']}",
        "",
        idea["idea"].strip(),
        "",
        f'<div class="drawing">{drawing.svg(idea["title"], rows)}</div>',
        "",
        "Each box is a layer or a stage: as high as its maps, as wide as their number. Below it are the size of the",
        "output and the number of parameters.",
        "",
        f"| | `{name}` |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in facts.items()),
        "",
        "## Train it",
        "",
        f"```text\ncnn_jax train --config={name}\n```",
        "",
        *result(name),
        f"The recipe is [`configs/{name}.py`](https://github.com/cnn-jax/cnn_jax/blob/main/configs/{name}.py), the",
        f"network [`cnn_jax/models/{models.MODELS[name].module}.py`]"
        f"(https://github.com/cnn-jax/cnn_jax/blob/main/cnn_jax/models/{models.MODELS[name].module}.py).",
        "",
        "## Its fields",
        "",
        f'Set them with `--config.model.FIELD=VALUE`, or with `cnn_jax.create("{name}", FIELD=VALUE)`.',
        "",
        *field_table(models.options(name).items()),
        "",
        "## Its layers",
        "",
        *layers(name, rows),
    ]
    return "\n".join(lines) + "\n"


def result(name: str) -> list[str]:
    """Returns what was measured with the recipe as it stands, with the command."""
    row = results().get(name)
    if row is None:
        return []
    settings = f" with `{row['settings']}`" if row["settings"] else ""
    return [
        f"Measured on the bundled data set `{row['data set']}` at {row['image']}{settings}: test accuracy",
        f"{row['test accuracy, %']}% for the seeds {row['seeds']}. The command, the hardware and the date are in",
        "[Measured results](../results.md).",
        "",
    ]


def layers(name: str, rows: list[LayerRow]) -> list[str]:
    """Returns the layer table, folded where it is long; without the layers themselves where they are very many."""
    network = layer_sheets.TracedNetwork(name, models.fields(name)["input_shape"], 4, rows)
    by_layer, by_stage, _ = layer_sheets.sheets(network)
    if len(rows) > 400:
        text = render([by_stage], "markdown")
        return [text, "", f"`cnn_jax summary --config={name}` prints all {len(rows):,} layers."]
    text = render([by_layer], "markdown")
    if len(rows) <= 24:
        return [text]
    body = "\n".join(f"    {line}" if line else "" for line in text.splitlines())
    return [render([by_stage], "markdown"), "", f'??? note "All {len(rows)} layers"', "", body]
