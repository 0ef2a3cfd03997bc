"""Finished runs, read from their folders, and groups of those that differ in the seed only.

Runs whose configurations and data differ in nothing but the seed (and in what is only printed or kept) make one group;
each seed counts once. Only files are read, and jax is not imported.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.config.compare import flat, is_one_of
from cnn_jax.config.durations import parse_duration, to_steps
from cnn_jax.config.fields import RESUMABLE
from cnn_jax.core.errors import UserError
from cnn_jax.core.files import read_json
from cnn_jax.eval import protocols
from cnn_jax.tracking import run_record
from cnn_jax.tracking.recorder import read_jsonl

FILES = ("config.json", "data.json", "metrics.jsonl")


class LeftOut(Exception):
    """A run that does not count. The message says what is missing."""


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
        return run_record.counted(self.record["starts"]) if self.record else []

    @property
    def seconds(self) -> float | None:
        """Of the whole command, summed over its starts."""
        return sum(start["seconds"]["total"] for start in self.starts) if self.record else None

    @property
    def killed(self) -> int:
        """How many starts were killed: their time after the last save is not recorded."""
        return sum(start["ended"] is None for start in self.starts)

    @property
    def time(self) -> str:
        """The seconds, with > if some time is not recorded."""
        return "?" if self.seconds is None else f"{'>' if self.killed else ''}{self.seconds:.0f}"

    @property
    def arguments(self) -> list[str] | None:
        return self.starts[-1]["arguments"] if self.record else None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines its numbers, except the seed."""
        config = {
            name: value for name, value in self.config.items() if name != "seed" and not is_one_of(name, RESUMABLE)
        }
        # Where the seed chooses the fold, sizes may differ by one.
        sizes = ("examples.train", "examples.validation") if config.get("data.fold", "").startswith("seed") else ()
        return config | {f"data.json: {name}": value for name, value in self.data.items() if name not in sizes}

    @property
    def evaluation(self) -> str:
        """How the test accuracy is measured."""
        config = self.config
        parts = [f"{self.test['examples']:,} examples ({config['data.test']})", protocols.describe(config)]
        if config["data.train_on"] == "train+validation":
            parts.append("trained on the validation part, too")
        if config["ema_decay"]:
            parts.append("moving average of the parameters")
        if parse_duration(config.get("swa_last", "0 epochs"))[0]:
            parts.append(f"mean of the weights of the last {config['swa_last']}")
        if config["eval.recompute_statistics"]:
            parts.append(f"BatchNorm statistics of {config['eval.recompute_statistics']} batches")
        return ", ".join([*parts, "last step"])

    @property
    def view(self) -> str:
        """The group of protocols whose published results are comparable."""
        return protocols.view(self.config)


def read(folder: Path) -> Finished:
    """Returns the finished run in `folder`.

    Raises:
      UserError: the folder is not that of a run.
      LeftOut: the run is unfinished or damaged.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise UserError(f"{folder} is not a folder of a run: it has none of {', '.join(FILES)}")
    for name in FILES:
        if not (folder / name).is_file():
            raise LeftOut(f"damaged or unfinished: there is no {name}")
    config = {"eval.protocol": "single", "eval.scales": []} | _fields(folder, "config.json")  # older runs lack them
    data = _fields(folder, "data.json")
    for name in (
        "model.name",
        "data.name",
        "duration",
        "data.test",
        "data.train_on",
        "data.test_crop",
        "eval.protocol",
    ):
        _need(config, "config.json", name, str)
    for name in ("seed", "batch_size", "data.channels", "data.test_resize", "eval.recompute_statistics"):
        _need(config, "config.json", name, int)
    _need(config, "config.json", "ema_decay", (int, float))
    for name in ("data.image_size", "eval.scales"):
        _need(config, "config.json", name, list)
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
    stopped_early = config.get("eval.patience", 0) > 0 and bool(tests) and tests[-1]["step"] == done
    if not tests or (tests[-1]["step"] != total and not stopped_early):
        why = "its loss was not finite" if (folder / "not_finite").is_dir() else "there is no final test"
        raise LeftOut(f"unfinished: step {done:,} of {total:,}, {why}")
    for name in ("error", "top5_error", "epoch"):
        _need(tests[-1], "the test in metrics.jsonl", name, (int, float))
    _need(tests[-1], "the test in metrics.jsonl", "examples", int)
    path = folder / "run.json"
    try:
        record = run_record.read(path) if path.exists() else None
    except UserError:
        raise LeftOut("damaged: run.json") from None
    return Finished(folder, config, data, tests[-1], record)


def _fields(folder: Path, name: str) -> dict[str, Any]:
    try:
        return flat(read_json(folder / name))
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

    A run that repeats a seed is left out: it is not another sample.
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


def commands(runs: Sequence[Finished]) -> list[str]:
    """Returns the command lines that repeat runs; of several runs, with SEED instead of the seed."""
    found = []
    for run in runs:
        if run.arguments is not None:
            arguments = run.arguments
            if len(runs) > 1:
                arguments = [*run_record.without(arguments, "config.seed"), "--config.seed=SEED"]
            fine_tunes = any(word.startswith("--checkpoint") for word in arguments)
            found.append(shlex.join(["cnn_jax", "finetune" if fine_tunes else "train", *arguments]))
    return found
