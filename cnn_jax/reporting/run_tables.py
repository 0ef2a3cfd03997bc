"""Tables of finished runs: test accuracy over seeds, or a line for each run."""

import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check
from cnn_jax.display.tables import Sheet, render, screen
from cnn_jax.reporting.runs import Finished, Group, LeftOut, commands, group, read
from cnn_jax.reporting.scorecard import Row, scorecard
from cnn_jax.tracking import run_record

FORMS = ("text", "markdown", "csv", "json")

# Columns that text and Markdown leave out, as they do empty ones: other columns say nearly the same.
ALSO = ("steps", "top-5, %", "mean")
# Columns that text and Markdown replace by one line below the table if all rows are equal.
FACTS = ("data set", "image", "evaluation", "hardware", "versions", "commit")


def show(folders: Sequence[str], form: str, *, grouped: bool, columns: Sequence[str], with_scorecard: bool) -> None:
    """Prints tables of finished runs; unfinished and damaged ones are named on the error output.

    Args:
      form: of `FORMS`. grouped: one line for runs that differ in the seed only, else one for each run.
      columns: see `tables`. with_scorecard: print the scorecard instead.

    Raises:
      UserError: a folder is not that of a run, or no finished run is left.
    """
    runs, left_out = [], {}
    for folder in map(Path, folders):
        try:
            runs.append(read(folder))
        except (LeftOut, UserError) as why:
            if isinstance(why, UserError) and len(folders) == 1:
                raise
            left_out[folder] = str(why).removeprefix(f"{folder} ")
    groups, again = group(runs)
    left_out |= again
    notes = "".join(f"{folder}: left out, {why}\n" for folder, why in left_out.items())
    check(bool(groups), f"no finished run is left:\n{notes.rstrip()}")
    sys.stderr.write(notes)
    for run in runs:
        if run.record is None:
            print(f"{run.folder}: no run.json, so its time, machine and command are not known", file=sys.stderr)
    if form == "json":
        found: dict[str, Any] = {"scorecard": scorecard(groups)} if with_scorecard else _as_json(groups)
        print(json.dumps(found | {"left out": {str(f): why for f, why in left_out.items()}}, indent=1))
    elif with_scorecard:
        title = "Error, %: published, and the medians of these runs"
        print(render([sheet(title, scorecard(groups))], form, width=screen()), end="")
    else:
        table, same = tables(groups, form, grouped=grouped, columns=columns)
        print(render([table], form, width=screen()), end="")
        if same:
            print("\n" + "; ".join(f"{name}: {value}" for name, value in same.items()))


def _as_json(groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "groups": [group_row(one) for one in groups],
        "runs": [run_row(run, one) for one in groups for run in one.runs],
    }


def _distinct(values: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value))


def _facts(group: Group) -> Row:
    """Returns what is the same for all runs of a group."""
    run = group.first
    size = (*run.config["data.image_size"], run.config["data.channels"])
    return {
        "network": run.network,
        "settings": group.settings,
        "data set": run.data["name"],
        "image": "x".join(map(str, size)),
        "parameters": run.record["parameters"] if run.record else None,
        "steps": run.test["step"],
        "epochs": run.test["epoch"],
        "evaluation": run.evaluation,
    }


def _machines(runs: Sequence[Finished]) -> Row:
    starts = [start for run in runs for start in run.starts]
    return {
        "hardware": _distinct(run_record.describe(start) for start in starts),
        "versions": _distinct(f"jax {s['versions']['jax']}, flax {s['versions']['flax']}" for s in starts),
        "commit": _distinct(re.sub(r"^(\w{10})\w+", r"\1", start["commit"] or "") for start in starts),
    }


def group_row(group: Group) -> Row:
    """Returns the line of a group."""
    accuracies = group.each(lambda run: run.accuracy)
    return _facts(group) | {
        "seeds": group.each(lambda run: run.seed),
        "test accuracy, %": accuracies,
        "median": statistics.median(accuracies),
        "mean": statistics.mean(accuracies),
        "standard deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "time, s": group.each(lambda run: run.time) if any(group.each(lambda run: run.record)) else None,
        **_machines(group.runs),
        "command": _distinct(commands(group.runs)),
    }


def run_row(run: Finished, group: Group) -> Row:
    """Returns the line of a run."""
    parts = ("training", "evaluation", "saving", "compilation")
    spent = {part: sum(start["seconds"].get(part, 0) for start in run.starts) if run.record else None for part in parts}
    return {
        "folder": str(run.folder),
        **_facts(group),
        "seed": run.seed,
        "test accuracy, %": run.accuracy,
        "top-5, %": run.top5_accuracy,
        "time, s": run.seconds,
        **{f"{part}, s": seconds for part, seconds in spent.items()},
        "starts": len(run.starts) or None,
        "killed starts": run.killed if run.record else None,
        **_machines([run]),
        "command": _distinct(commands([run])),
    }


# ---------------------------------------------------------------- printing


def sheet(title: str, rows: Sequence[Row], *, only: Sequence[str] = ()) -> Sheet:
    """Returns rows as a table, of all columns or `only` some; numbers with two digits after the point."""
    headings = tuple(only or rows[0])
    return Sheet(title, headings, [tuple(_cell(row[heading]) for heading in headings) for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{item:.2f}" if isinstance(item, float) else str(item) for item in value)
    if isinstance(value, float):
        return round(value) if value >= 1000 else round(value, 2)  # also the seconds of long runs, as plain numbers
    return value


def tables(
    groups: Sequence[Group], form: str, *, grouped: bool, columns: Sequence[str] = ()
) -> tuple[Sheet, dict[str, Any]]:
    """Returns a table of the groups, or of each of their runs, and what is the same in all its rows.

    With the form "csv" the table has all columns.

    Args:
      columns: beginnings of the headings to print; (): the columns that are not redundant.

    Raises:
      UserError: no heading begins so.
    """
    rows = [group_row(one) for one in groups] if grouped else [run_row(run, one) for one in groups for run in one.runs]
    if columns:
        return sheet("Test accuracy, top-1", rows, only=[_heading(column, rows[0]) for column in columns]), {}
    if form == "csv":
        return sheet("", rows), {}
    shown = [name for name in rows[0] if name not in ALSO and any(row[name] not in (None, "") for row in rows)]
    same = {
        name: rows[0][name]
        for name in shown
        if name in FACTS and len(rows) > 1 and all(row[name] == rows[0][name] for row in rows)
    }
    return sheet("Test accuracy, top-1", rows, only=[name for name in shown if name not in same]), same


def _heading(beginning: str, headings: Iterable[str]) -> str:
    for heading in headings:
        if heading.startswith(beginning):
            return heading
    raise UserError(f"--columns: no column begins with {beginning!r}: {'; '.join(headings)}")
