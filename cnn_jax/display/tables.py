"""Tables of numbers as text for a terminal, as Markdown and as CSV."""

import csv
import io
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnn_jax.core.text import csv_cell, markdown, printable

FORMS = ("text", "markdown", "csv")


class Short(int):
    """A number that people read with three digits: 1.85 G. CSV has all digits."""


class Code(str):
    """Text that Markdown shows as code, such as a command."""


class Share(float):
    """A part of a whole, in [0, 1], that people read in percent."""


@dataclass(frozen=True)
class Sheet:
    """A table of raw values under headings.

    A value is a str, an int, a float (a ratio), `Short`, `Share`, a tuple of sizes, or None for no value.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold no words: these are aligned to the right."""
        return [not any(isinstance(line[i], str) for line in self.lines) for i in range(len(self.headings))]


def human(value: float) -> str:
    """Returns a number with three significant digits and a unit prefix: 25.6 M."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if float(f"{value:.3g}") >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g} "


def duration(seconds: float) -> str:
    """Returns seconds as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def screen() -> int | None:
    """Returns the columns of the terminal, None where standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def render(sheets: Sequence[Sheet], form: str, *, width: int | None = None) -> str:
    """Returns tables in one of `FORMS`; "csv" has the first table only, with plain numbers, and nothing for None.

    Args:
      width: of "text", in characters: columns that do not fit follow below, after the first column again.
    """
    if form == "csv":
        return _csv(sheets[0])
    if form == "markdown":
        return "\n".join(map(_markdown, sheets))
    return "\n".join(_text(sheet, width) for sheet in sheets)


def _csv(sheet: Sheet) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(sheet.headings)
    writer.writerows([_plain(value) for value in line] for line in sheet.lines)
    return file.getvalue()


def _markdown(sheet: Sheet) -> str:
    rule = ["---:" if right else "---" for right in sheet.numeric]

    def cell(value: Any) -> str:
        return f"`{_cell(value)}`".replace("|", "\\|") if isinstance(value, Code) else markdown(_cell(value))

    lines = [[*map(cell, sheet.headings)], rule, *([*map(cell, line)] for line in sheet.lines)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{markdown(sheet.title)}**\n\n{body}\n"


def _text(sheet: Sheet, width: int | None) -> str:
    """Returns the title and aligned columns; headings above numbers are wrapped, so that columns stay narrow."""
    body = [[_cell(value) for value in line] for line in sheet.lines]
    columns = list(zip(*body, strict=True)) or [()] * len(sheet.headings)
    headings = [
        _broken(heading, max([8, *map(len, column)])) if right else [heading]
        for heading, column, right in zip(sheet.headings, columns, sheet.numeric, strict=True)
    ]
    depth = max(map(len, headings))
    aligned = []
    for heading, column, right in zip(headings, columns, sheet.numeric, strict=True):
        cells = [""] * (depth - len(heading)) + [*heading, *column]
        longest = max(map(len, cells))
        aligned.append([cell.rjust(longest) if right else cell.ljust(longest) for cell in cells])
    text = [printable(sheet.title)]
    for number, block in enumerate(_blocks(aligned, width)):
        text += [""] * (number > 0)
        text += ["  ".join(line).rstrip() for line in zip(*block, strict=True)]
    return "\n".join(text) + "\n"


def _blocks(columns: list[list[str]], width: int | None) -> list[list[list[str]]]:
    """Returns the columns in blocks that fit into `width`; each begins with the first column."""
    if width is None:
        return [columns]
    first, *rest = columns
    blocks: list[list[list[str]]] = [[first]]
    for column in rest:
        used = sum(len(one[0]) + 2 for one in blocks[-1])
        if len(blocks[-1]) > 1 and used + len(column[0]) > width:
            blocks.append([first])
        blocks[-1].append(column)
    return blocks


def _broken(heading: str, width: int) -> list[str]:
    """Returns the lines of a heading over a column of at least `width`, wrapped only after spaces and / : =."""
    pieces = re.findall(r"[^ /:=]*[ /:=]|[^ /:=]+", heading)
    width, lines = max(width, *(len(piece.rstrip()) for piece in pieces), 0), [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _cell(value: Any) -> str:
    """Returns a value as people read it."""
    match value:
        case str():
            return printable(value)
        case Share():
            return f"{value:.1%}"
        case Short():
            return human(value).rstrip()
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}"
    return _plain(value) or "-"


def _plain(value: Any) -> str:
    """Returns a value as programs read it."""
    if isinstance(value, tuple):  # sizes along some axes; None along those that have no positions left
        return "x".join("-" if size is None else str(size) for size in value) if any(value) else ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else csv_cell(value) if isinstance(value, str) else str(value)
