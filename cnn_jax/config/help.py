"""The text of --help: usage, description, flags by heading, and the fields of a configuration."""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl.flags import Flag

from cnn_jax import models
from cnn_jax.config.configuration import Configuration, values
from cnn_jax.config.fields import FIELDS

WIDEST = 100  # characters of a line
INDENT = 26  # of the help of a flag


def render(usage: str, doc: str, groups: Mapping[str, Sequence[Flag]], configuration: Configuration | None) -> str:
    """Returns the whole text; with a configuration it lists every --config.FIELD with its value and meaning."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    parts = [f"usage: {usage}", *_description(doc, width)]
    for heading, flags in groups.items():
        parts.append("\n".join([f"{heading}:", *(_entry(form(flag), meaning(flag), width) for flag in flags)]))
    if configuration is not None:
        parts.append("\n".join(["Fields of the configuration:", *_fields(configuration.config, width)]))
    return "\n\n".join(parts)


def _description(doc: str, width: int) -> list[str]:
    """Returns the paragraphs of a docstring, wrapped but for those that are indented."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(doc).strip())
    return [
        text.rstrip() if text.startswith(" ") else textwrap.fill(" ".join(text.split()), width) for text in paragraphs
    ]


def form(flag: Flag) -> str:
    """Returns how a flag is written: --workdir=FOLDER, --[no]json, --format={text,csv}."""
    if flag.boolean:
        return f"--{'[no]' if flag.default else ''}{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    return f"--{flag.name}={'{' + ','.join(choices) + '}' if choices else _split(flag)[0]}"


def _split(flag: Flag) -> tuple[str, str]:
    """Returns (what stands for the value, the meaning) of a flag whose help is "VALUE: meaning"."""
    text = re.sub(
        r"^<[^>]*>: |;\s*repeat this option to specify a list of values$", "", flag.help or ""
    )  # absl's words
    match = re.match(r"([A-Z][A-Z0-9:=,.@\[\]]*): ", text)
    if match:
        return match[1], text[match.end() :]
    return {"int": "N", "float": "X"}.get(flag.flag_type(), "VALUE"), text


def meaning(flag: Flag) -> str:
    meaning = _split(flag)[1]
    meaning = meaning[:1].upper() + meaning[1:]
    if flag.boolean or flag.default in (None, [], "") or "efault" in meaning:
        return meaning
    default = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else flag.default
    return f"{meaning} Default: {f'{default:g}' if isinstance(default, float) else default}."


def _entry(form: str, meaning: str, width: int) -> str:
    """Returns a flag and its meaning in two columns, or in two lines where the flag is long."""
    lines = textwrap.wrap(meaning, max(20, width - INDENT)) or [""]
    start = f"  {form}"
    if len(start) < INDENT - 1:
        start = start.ljust(INDENT) + lines.pop(0)
    return "\n".join([start, *(" " * INDENT + line for line in lines)])


def _fields(config: Any, width: int) -> list[str]:
    """Returns an entry for each field of a configuration, the network's first."""
    meanings = {name: field.help for name, field in FIELDS.items()}
    meanings |= {f"model.{name}": option.help for name, option in models.options(config.model.name).items()}
    return [
        _entry(f"--config.{name}={_word(value)}", meanings.get(name, ""), width)
        for name, value in values(config).items()
        if name != "model.name"  # the recipe's; another network has other fields
    ]


def _word(value: Any) -> str:
    """Returns a value as a shell takes it."""
    text = str(value)
    return f'"{text}"' if re.search(r"[^\w.,:@/=+-]", text) or not text else text
