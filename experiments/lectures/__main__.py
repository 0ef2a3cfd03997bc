"""The numbers of the lectures, recomputed: the slide's, ours, and whether they agree.

    python -m experiments.lectures
    python -m experiments.lectures --lecture=002 --format=html --output=lectures.html

Nothing is read from a stored answer: ours come from the networks and layers of this package, and are compared with an
independent count as well. The exit code is 1 if one of ours contradicts that.
"""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.lectures.facts import FACTS, WORDS, Fact

LECTURES = ("000", "001", "002", "003", "004")
HEADINGS = ("of", "what", "slide", "ours", "verdict", "why")


def shown(value: object) -> str:
    """Returns a number, or the size of a map, as a cell."""
    if isinstance(value, (list, tuple)):
        if not len(value):
            return "none"
        rows = value if isinstance(value[0], list) else [value]
        short = len(rows) == 1 and len(rows[0]) < 8
        return ", ".join(f"{v:g}" for v in rows[0]) if short else f"map {len(rows)}x{len(rows[0])}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def differing(fact: Fact, ours: Any) -> str:
    """Returns in how many cells a map of the slide differs from ours, or ""."""
    if not isinstance(fact.slide, list) or not isinstance(fact.slide[0], list) or fact.slide == ours:
        return ""
    cells = [a != b for one, other in zip(fact.slide, ours, strict=True) for a, b in zip(one, other, strict=True)]
    return f"{sum(cells)} of {len(cells)} cells are wrong"


def lines(facts: Sequence[Fact]) -> list[tuple[str, ...]]:
    """Returns a line for each fact, under `HEADINGS`."""
    found, told = [], Console(stderr=True)
    for fact in track(facts, "computing", transient=True, console=told, disable=not told.is_terminal):
        ours = fact.ours()
        why = "; ".join(filter(None, (differing(fact, ours), fact.why)))
        found.append((fact.lectures, fact.what, shown(fact.slide), shown(ours), fact.verdict(ours), why))
    return found


def as_text(table: Sequence[Sequence[str]]) -> str:
    """Returns the table for a terminal; 100 columns if there is none. Each number's explanation is below it."""
    styles = {"wrong on the slide": "yellow", "CONTRADICTION": "bold red", "agrees": "green"}
    drawn = Table(box=None, pad_edge=False)
    for heading in HEADINGS[:-1]:
        width = 14 if heading in ("slide", "ours") else None
        drawn.add_column(heading, no_wrap=heading in ("of", "verdict"), max_width=width)
    for of, what, slide, ours, verdict, why in table:
        drawn.add_row(of, f"{what}\n  {why}" if why else what, slide, ours, verdict, style=styles.get(verdict, ""))
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEADINGS, ["---"] * len(HEADINGS), *rows))


def as_html(table: Sequence[Sequence[str]]) -> str:
    def row(tag: str, line: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"

    style = "body{font:15px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.2em .6em;text-align:left}"
    body = "\n".join(row("td", line) for line in table)
    return (
        f'<!doctype html>\n<meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>The numbers of the lectures</title>\n<style>{style}</style>\n<h1>The numbers of the lectures</h1>\n"
        f"<table>\n{row('th', HEADINGS)}\n{body}\n</table>"
    )


def main(argv: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.lectures", description=__doc__, formatter_class=form)
    parser.add_argument("--lecture", choices=LECTURES, help="this one only")
    parser.add_argument("--format", choices=("text", "markdown", "html"), default="text")
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of printing")
    given = parser.parse_args(argv)
    chosen = given.lecture or ""
    found = lines([fact for fact in FACTS if chosen in fact.lectures])
    words = [(of, what, slide, "", verdict, why) for of, what, slide, verdict, why in WORDS if chosen in of]
    text = {"text": as_text, "markdown": as_markdown, "html": as_html}[given.format](found + words)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return int(any(line[4] == "CONTRADICTION" for line in found))


if __name__ == "__main__":
    sys.exit(main())
