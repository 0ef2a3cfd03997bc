"""Markdown tables of fields, and texts as cells of them."""

import re
from collections.abc import Iterable

from cnn_jax.config.fields import OPEN
from cnn_jax.core.rules import Choice, Field


def field_table(fields: Iterable[tuple[str, Field]]) -> list[str]:
    """Returns the lines of a table of fields: name, default, meaning, values."""
    lines = ["| field | default | meaning | values |", "|---|---|---|---|"]
    for name, field in fields:
        values = f"must be {field.rule.text}" if field.rule else ""
        if isinstance(field.rule, Choice):
            values = ", ".join(f"`{option}`" for option in field.rule.options)
        if field.resume:
            values = f"{values}; *resume*" if values else "*resume*"
        default = "" if name in OPEN else f"`{field.default!r}`"
        lines.append(f"| `{name}` | {cell(default)} | {cell(escaped(field.help))} | {cell(values)} |")
    return lines


def cell(text: str) -> str:
    """Returns a text as it may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def escaped(text: str) -> str:
    """Returns a plain text without what Markdown would read as markup."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)
