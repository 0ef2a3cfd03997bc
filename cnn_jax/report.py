"""From the folders of finished runs to tables: test accuracy over seeds, and a scorecard beside published results.

    python -m cnn_jax.report runs/*
    python -m cnn_jax.report runs/* --format=markdown
    python -m cnn_jax.report runs/* --nogroup --format=csv
    python -m cnn_jax.report runs/* --scorecard

Runs whose configurations and data differ in nothing but the seed (and in what is only printed or kept) make one group;
each seed counts once. Numbers are those of the test part after the last step. Unfinished and damaged runs are named on
the error output, with what is missing. Only files are read, and jax is not imported.
"""

import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cnn_jax import provenance, published, workdir
from cnn_jax.config import to_steps
from cnn_jax.errors import UserError
from cnn_jax.metrics import read_jsonl
from cnn_jax.tables import Sheet, render

FILES = ("config.json", "data.json", "metrics.jsonl")
# Fields of config.model that make no other network of it: published numbers of the same name stand beside it.
SAME_NETWORK = ("variant", "auxiliary", "dropout", "init", "initial_bias", "norm_decay", "zero_gamma")
Row = dict[str, Any]  # heading -> value, or list of values


class LeftOut(Exception):
    """A run does not count. The message says what is missing."""


# ---------------------------------------------------------------- one run


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path
    config: dict[str, Any]  # with dotted names
    data: dict[str, Any]  # with dotted names: name with its version, examples.train, examples.test
    test: dict[str, Any]  # the record of the final test
    record: dict[str, Any] | None  # of run.json

    @property
    def network(self) -> str:
        return self.config["model.name"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def accuracy(self) -> float:
        """Top-1, %."""
        return 100 * (1 - self.test["error"])

    @property
    def top5_accuracy(self) -> float:
        """%."""
        return 100 * (1 - self.test["top5_error"])

    @property
    def starts(self) -> list[dict[str, Any]]:
        return provenance.counted(self.record["starts"]) if self.record else []

    @property
    def seconds(self) -> float | None:
        """Of the whole command, summed over its starts."""
        return sum(start["seconds"]["total"] for start in self.starts) if self.record else None

    @property
    def killed(self) -> int:
        """How many starts were killed: their time after the last save is in no record."""
        return sum(start["ended"] is None for start in self.starts)

    @property
    def arguments(self) -> list[str] | None:
        return self.starts[-1]["arguments"] if self.record else None

    @property
    def identity(self) -> dict[str, Any]:
        """All that makes its numbers, but the seed."""
        config = {
            name: value
            for name, value in self.config.items()
            if name != "seed" and not name.startswith(workdir.CHANGEABLE)
        }
        return config | {f"data.json: {name}": value for name, value in self.data.items()}

    @property
    def evaluation(self) -> str:
        """How the test accuracy is measured."""
        config, (height, width) = self.config, self.config["data.image_size"]
        size = f"{height}x{width}"
        parts = [
            f"{self.test['examples']:,} images ({config['data.test']})",
            f"shorter side to {config['data.test_resize']}, centre crop of {size}"
            if self.crops
            else f"whole, at {size}",
        ]
        if config["data.train_on"] == "train+validation":
            parts.append("trained on the validation part, too")
        if config["ema_decay"]:
            parts.append("moving average of the parameters")
        if config["eval.recompute_statistics"]:
            parts.append(f"BatchNorm statistics of {config['eval.recompute_statistics']} batches")
        return ", ".join([*parts, "last step"])

    @property
    def crops(self) -> bool:
        return self.config["data.test_crop"] == "center"


def read(folder: Path) -> Finished:
    """Returns the finished run in `folder`.

    Raises:
      UserError: the folder is none of a run.
      LeftOut: the run is unfinished or damaged.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise UserError(f"{folder} is no folder of a run: it has none of {', '.join(FILES)}")
    for name in FILES:
        if not (folder / name).is_file():
            raise LeftOut(f"damaged or unfinished: there is no {name}")
    config, data = _fields(folder, "config.json"), _fields(folder, "data.json")
    for name in ("model.name", "data.name", "duration", "data.test", "data.train_on", "data.test_crop"):
        _need(config, "config.json", name, str)
    for name in ("seed", "batch_size", "data.channels", "data.test_resize", "eval.recompute_statistics"):
        _need(config, "config.json", name, int)
    _need(config, "config.json", "ema_decay", (int, float))
    _need(config, "config.json", "data.image_size", list)
    _need(data, "data.json", "name", str)
    _need(data, "data.json", "examples.train", int)
    try:
        records = read_jsonl(folder / "metrics.jsonl")
        sizes = dict(batch_size=config["batch_size"], num_examples=data["examples.train"])
        total = to_steps(config["duration"], **sizes)
        done = max((record["step"] for record in records), default=0)
        tests = [record for record in records if record["kind"] == "test"]
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise LeftOut(f"damaged: {error}") from None
    if not tests or tests[-1]["step"] != total:
        why = "its loss was not finite" if (folder / "not_finite").is_dir() else "there is no final test"
        raise LeftOut(f"unfinished: step {done:,} of {total:,}, {why}")
    for name in ("error", "top5_error", "epoch"):
        _need(tests[-1], "the test in metrics.jsonl", name, (int, float))
    _need(tests[-1], "the test in metrics.jsonl", "examples", int)
    path = folder / "run.json"
    try:
        record = provenance.read(path) if path.exists() else None
    except UserError:
        raise LeftOut("damaged: run.json") from None
    return Finished(folder, config, data, tests[-1], record)


def _fields(folder: Path, name: str) -> dict[str, Any]:
    try:
        return workdir.flat(json.loads((folder / name).read_text(encoding="utf-8")))
    except (ValueError, AttributeError):
        raise LeftOut(f"damaged: {name}") from None


def _need(fields: dict[str, Any], file: str, name: str, kind: Any) -> None:
    if not isinstance(fields.get(name), kind):
        raise LeftOut(f"damaged: {file} has no {name}" if name not in fields else f"damaged: {name} in {file}")


# ---------------------------------------------------------------- groups


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, by seed."""

    runs: list[Finished]
    settings: str  # fields of the network that are not its defaults, and what differs from similar groups

    @property
    def first(self) -> Finished:
        return self.runs[0]

    def each(self, value: Callable[[Finished], Any]) -> list[Any]:
        return [value(run) for run in self.runs]


def group(runs: Iterable[Finished]) -> tuple[list[Group], dict[Path, str]]:
    """Returns the groups, in the order of their first runs, and why runs are left out of them.

    A seed that comes again is left out: it is no further sample.
    """
    found: dict[str, dict[int, Finished]] = {}
    left_out = {}
    for run in runs:
        seeds = found.setdefault(json.dumps(run.identity, sort_keys=True), {})
        if (first := seeds.setdefault(run.seed, run)) is not run:
            same = "the same" if run.test["error"] == first.test["error"] else f"{first.accuracy:.2f}"
            left_out[run.folder] = f"seed {run.seed} again: {run.accuracy:.2f}%, and {same} in {first.folder}"
    members = [[run for _, run in sorted(seeds.items())] for seeds in found.values()]
    return [Group(runs, _settings(runs[0], [other[0] for other in members])) for runs in members], left_out


def _settings(run: Finished, others: Sequence[Finished]) -> str:
    similar = [o for o in others if (o.network, o.config["data.name"]) == (run.network, run.config["data.name"])]
    unusual = [f"model.{name}" for name in run.record["changed"]] if run.record else []
    if run.config.get("model.width", 1.0) != 1.0:
        unusual.append("model.width")
    absent = "absent"
    mine = run.identity
    names = dict.fromkeys(unusual) | {
        name: None
        for other in similar
        for name in sorted(mine | other.identity)
        if mine.get(name, absent) != other.identity.get(name, absent)
    }
    return ", ".join(f"{name.removeprefix('model.')}={mine.get(name, absent)}" for name in names)


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
        "hardware": _distinct(f"{start['processor']}, {start['cores']} cores, {start['devices']}" for start in starts),
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
        "time, s": group.each(time_text) if any(group.each(lambda run: run.record)) else None,
        **_machines(group.runs),
        "command": _distinct(commands(group.runs)),
    }


def time_text(run: Finished) -> str:
    """Returns the seconds of the whole command, with > where more is in no record."""
    return "?" if run.seconds is None else f"{'>' if run.killed else ''}{run.seconds:.0f}"


def commands(runs: Sequence[Finished]) -> list[str]:
    """Returns the command lines that repeat runs: of several, with SEED in the place of the seed."""
    found = []
    for run in runs:
        if run.arguments is not None:
            arguments = run.arguments
            if len(runs) > 1:
                arguments = [*provenance.without(arguments, "config.seed"), "--config.seed=SEED"]
            found.append(shlex.join(["python", "-m", "cnn_jax.main", *arguments]))
    return found


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


# ---------------------------------------------------------------- scorecard


def scorecard(groups: Sequence[Group]) -> list[Row]:
    """Returns lines of published results and ours, side by side where network, data set and view are the same.

    Errors in %; ours are medians over seeds. What has no number is None.
    """
    cells: dict[tuple[str, str, str, str], dict[str, list[Row]]] = {}

    def place(key: tuple[str, str, str, str], by: str, row: Row) -> None:
        of = cells.setdefault(key, {"paper": [], "torchvision": [], "ours": []})
        of[by].append({f"{by}: {name}": value for name, value in row.items()})

    for result in published.RESULTS:
        key = (result.network, _label(result.fields), result.dataset, result.view)
        errors = {"top-1 error, %": result.top1, "top-5 error, %": result.top5}
        place(key, result.by, errors | {"evaluation": result.evaluation, "source": result.source})
    for one in groups:
        run = one.first
        fields = "not recorded"
        if run.record:
            fields = _label({name: v for name, v in run.record["changed"].items() if name not in SAME_NETWORK})
        key = (run.network, fields, run.config["data.name"], "1 crop" if run.crops else "whole image")
        row = {
            "top-1 error, %": statistics.median(one.each(lambda run: 100 - run.accuracy)),
            "top-5 error, %": statistics.median(one.each(lambda run: 100 - run.top5_accuracy)),
            "seeds": len(one.runs),
            "settings": one.settings,
            "evaluation": run.evaluation,
        }
        place(key, "ours", row)
    names = {by: next(iter(of[by][0] for of in cells.values() if of[by])) for by in ("paper", "torchvision", "ours")}
    order = list(dict.fromkeys(network for network, *_ in cells))
    rows = []
    for key in sorted(cells, key=lambda key: order.index(key[0])):
        for found in zip_longest(*(cells[key][by] for by in names)):
            row: Row = dict(zip(("network", "fields", "data set", "view"), key, strict=True))
            for by, cell in zip(names, found, strict=True):
                row |= cell or dict.fromkeys(names[by])
            rows.append(row)
    return rows


def _label(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(fields.items()))


# ---------------------------------------------------------------- printing


def sheet(title: str, rows: Sequence[Row], *, only: Sequence[str] = ()) -> Sheet:
    """Returns rows as a table, of all columns or `only` some; numbers with two digits after the point."""
    headings = tuple(only or rows[0])
    return Sheet(title, headings, [tuple(_cell(row[heading]) for heading in headings) for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{item:.2f}" if isinstance(item, float) else str(item) for item in value)
    if isinstance(value, float):
        return round(value) if value >= 1000 else round(value, 2)  # seconds of long runs, too, as plain numbers
    return value


def tables(groups: Sequence[Group], form: str, *, grouped: bool) -> list[Sheet]:
    """Returns what is printed of the groups, or of each run of them; as "csv" one table of all columns."""
    rows = [group_row(one) for one in groups] if grouped else [run_row(run, one) for one in groups for run in one.runs]
    if form == "csv":
        return [sheet("", rows)]
    names = ("network", "settings", "data set") if grouped else ("folder",)
    made = list(rows[0]).index("time, s")
    numbers, making = list(rows[0])[:made], list(rows[0])[made:]
    return [
        sheet("Test accuracy, top-1", rows, only=[name for name in numbers if name != "evaluation"] + ["evaluation"]),
        sheet("Made by", rows, only=[*names, *making]),
    ]


if __name__ == "__main__":
    from absl import flags

    from cnn_jax import commandline
    from cnn_jax.errors import check

    _FORMAT = flags.DEFINE_enum("format", "text", ["text", "markdown", "csv", "json"], "What to print.")
    _GROUP = flags.DEFINE_bool(
        "group", True, "One line for runs that differ in the seed only; --nogroup: for each run."
    )
    _SCORECARD = flags.DEFINE_bool("scorecard", False, "Published results and those of the runs, side by side.")

    def start(folders: list[str]) -> None:
        """Prints what the flags say."""
        check(commandline.given_config() is None, "--config goes with training: name the folders of runs, as in runs/*")
        check(_GROUP.value or not _SCORECARD.value, "--scorecard is of groups: leave --nogroup out")
        check(bool(folders), "name the folders of runs: python -m cnn_jax.report runs/*")
        runs, left_out = [], {}
        for folder in map(Path, folders):
            try:
                runs.append(read(folder))
            except LeftOut as why:
                left_out[folder] = str(why)
        groups, again = group(runs)
        notes = "".join(f"{folder}: left out, {why}\n" for folder, why in (left_out | again).items())
        check(bool(groups), f"no finished run is left:\n{notes.rstrip()}")
        sys.stderr.write(notes)
        for run in runs:
            if run.record is None:
                print(f"{run.folder}: no run.json, so its time, machine and command are not known", file=sys.stderr)
        rows = scorecard(groups) if _SCORECARD.value else []
        if _FORMAT.value == "json":
            found = (
                {"scorecard": rows}
                if _SCORECARD.value
                else {
                    "groups": [group_row(one) for one in groups],
                    "runs": [run_row(run, one) for one in groups for run in one.runs],
                }
            )
            print(json.dumps(found | {"left out": {str(f): why for f, why in (left_out | again).items()}}, indent=1))
        elif _SCORECARD.value:
            title = "Error, %: published, and the medians of these runs"
            print(render([sheet(title, rows)], _FORMAT.value), end="")
        else:
            print(render(tables(groups, _FORMAT.value, grouped=_GROUP.value), _FORMAT.value), end="")

    commandline.launch(start, operands=True)
