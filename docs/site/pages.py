"""The pages that are made from code: every field, every command, every network."""

import contextlib
import functools
import importlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networks
from cells import cell, escaped, field_table

from cnn_jax.__main__ import COMMANDS, Command
from cnn_jax.config import cli, help
from cnn_jax.config.datasets import DATASETS
from cnn_jax.config.fields import FIELDS

ROOT = Path(__file__).parents[2]

# Headings of the page of fields: the beginning of the names, in the order of the page.
SECTIONS = {
    "The run": "",
    "Optimizer: `optim`": "optim.",
    "Learning rate schedule: `optim.schedule`": "optim.schedule.",
    "Evaluation: `eval`": "eval.",
    "Devices: `mesh`": "mesh.",
    "Checkpoints: `checkpoint`": "checkpoint.",
    "Records: `log`": "log.",
    "Data: `data`": "data.",
}


@functools.cache
def generated() -> Mapping[str, str]:
    """Returns the text of each generated page by its place in the site."""
    found = {"fields.md": fields_page(), "commands/index.md": commands_page()}
    found |= {f"commands/{name}.md": command_page(name, command) for name, command in COMMANDS.items()}
    return found | networks.generated()


class _Generated:
    def __contains__(self, uri: object) -> bool:
        return uri in generated()


GENERATED = _Generated()


def navigation() -> dict[str, list[Any]]:
    """Returns the entries of the navigation's folders."""
    return {
        "networks/": networks.navigation(),
        "commands/": ["commands/index.md", *({name: f"commands/{name}.md"} for name in COMMANDS)],
        "reports/": [{title(path): f"reports/{path.parent.name}/index.md"} for path in _reports()],
    }


def _reports() -> list[Path]:
    return sorted((ROOT / "experiments" / "results").glob("*/report.md"))


def title(report: Path) -> str:
    """Returns the question that a report answers."""
    return report.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def reports() -> dict[str, str]:
    """Returns the file in the repository of each page and picture of the reports, by its place in the site."""
    found = {}
    for report in _reports():
        for path in (report, *sorted(report.parent.glob("*.png"))):
            name = "index.md" if path == report else path.name
            found[f"reports/{report.parent.name}/{name}"] = str(path.relative_to(ROOT))
    return found


# ---------------------------------------------------------------- fields


def fields_page() -> str:
    """Returns the page of every field of a configuration, by section, and of the data sets' rows."""
    lines = [
        "# Every field of a configuration",
        "",
        "Set a field with `--config.NAME=VALUE`, or in a recipe with `config.NAME = VALUE`. A mistyped name is an",
        "error that shows the nearest one. The fields of a network, `config.model`, are on",
        "[its page](networks/index.md). `--help` with `--config` prints the fields of a recipe with their values.",
        "",
        "This page is made from `cnn_jax/config/fields.py`. Fields marked *resume* may change when a run resumes.",
    ]
    for heading, prefix in SECTIONS.items():
        own = {name: field for name, field in FIELDS.items() if name.rpartition(".")[0] + "." == (prefix or ".")}
        lines += ["", f"## {heading}", "", *field_table(own.items())]
    lines += ["", "## Data sets with a row of their own", ""]
    lines += [
        "A recipe's data set, as in `resnet20:cifar10`, sets these fields of `config.data`. Every other name is a data",
        "set of TFDS, trained as photographs of 224x224. From `cnn_jax/config/datasets.py`:",
        "",
        "| data set | fields that it sets |",
        "|---|---|",
    ]
    for name, row in DATASETS.items():
        text = " ".join(f"`{key}={value!r}`" for key, value in row.items())
        lines.append(f"| `{name}` | {cell(text)} |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- commands


def commands_page() -> str:
    lines = [
        "# Every command",
        "",
        "All commands have one name, `cnn_jax`, and work in any folder. `python -m cnn_jax.MODULE` is the same.",
        "These pages are made from the commands' flags.",
        "",
        "| command | what it does | module |",
        "|---|---|---|",
    ]
    for name, command in COMMANDS.items():
        lines.append(f"| [`cnn_jax {name}`]({name}.md) | {command.line} | `cnn_jax.{command.module}` |")
    lines += ["", "What the exit codes mean is in [Resume and faults](../resume.md#exit-codes)."]
    return "\n".join(lines) + "\n"


def command_page(name: str, command: Command) -> str:
    """Returns the page of a command: its usage, its docstring, a table of flags for each heading."""
    module = importlib.import_module(f"cnn_jax.{command.module}")
    flags = cli.Flags()
    module.define(flags)
    lines = [f"# cnn_jax {name}", "", f"```text\n{usage(module)}\n```", "", *docstring(module.__doc__ or "")]
    for heading, own in flags.groups.items():
        lines += ["", f"## {heading}", "", "| flag | meaning |", "|---|---|"]
        lines += [f"| `{help.form(flag)}` | {cell(escaped(help.meaning(flag)))} |" for flag in own]
    return "\n".join(lines) + "\n"


def usage(module: Any) -> str:
    """Returns the first line of a command's --help."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        module.main(["--help"])
    return output.getvalue().splitlines()[0].removeprefix("usage: ")


def docstring(text: str) -> list[str]:
    """Returns a docstring as Markdown: indented paragraphs are code."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        code = all(line.startswith(("  ", "source <(")) for line in paragraph.splitlines())
        body = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines())
        lines += [f"```text\n{body}\n```" if code else paragraph, ""]
    return lines
