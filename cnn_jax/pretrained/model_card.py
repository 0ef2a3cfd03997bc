"""The model card of a trained network: the README.md of its page on the Hugging Face Hub, from what its run recorded.

Texts of users (commands, names of classes and data) are shown as they are typed: never links, pictures or HTML, and
never fields of the card's own.
"""

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax import models
from cnn_jax.analysis import layer_table
from cnn_jax.checkpoint import bucket
from cnn_jax.core.text import markdown, shortened
from cnn_jax.display.tables import Sheet, duration, render
from cnn_jax.pretrained import source as pretrained
from cnn_jax.tracking import run_folder, run_record
from cnn_jax.tracking.recorder import read_jsonl

HOME = "https://github.com/cnn-jax/cnn_jax"
PRIVATE = ("workdir", "config.data.dir")  # flags that name folders of the machine it was trained on
MOST = 40  # classes that are listed


def config(source: pretrained.Pretrained) -> dict[str, Any]:
    """Returns the content of config.json: what the header of the weights says, for people and for the Hub."""
    return {
        "library_name": "cnn_jax",
        "architecture": source.model["name"],
        "num_classes": source.num_classes,
        "model": dict(source.model),
        "input": {field: source.input[field] for field in run_folder.INPUT},
    }


def card(source: pretrained.Pretrained, address: str, *, license: str | None = None) -> str:
    """Returns the model card of a trained network as Markdown, with the Hub's fields as YAML before it.

    Args:
      address: the SOURCE that names it on the Hub, hub:OWNER/NAME. license: the Hub's name of one; None: the card says
        how to add it.

    Raises:
      UserError: a record of its run is damaged.
    """
    run = _records(source)
    name, data = str(source.model["name"]), run.get("data", {}).get("name")
    title = f"{name} on {data}" if data else name
    parts = [
        _fields(source, title, data, run.get("results", []), license),
        f"# {markdown(title)}",
        f"A convolutional network for [cnn_jax]({HOME}).",
        render([Sheet("The network", ("", ""), _network(source))], "markdown"),
    ]
    if run:
        parts.append(render([Sheet("Its training", ("", ""), _training(run))], "markdown"))
    if results := run.get("results"):
        parts.append(render([_results(results)], "markdown"))
    parts += ["## Use it", _use(source, address)]
    if commands := _commands(run):
        parts += ["## Train it", *(_code(command, "bash") for command in commands)]
    if license is None:
        parts += [
            "## License",
            "None is named. The owner names one in the first lines of this file: `license: ...`.",
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


# ---------------------------------------------------------------- what is known


def _records(source: pretrained.Pretrained) -> dict[str, Any]:
    """Returns what the run of a source recorded: config, data, run, results of its step; {} of a file of weights."""
    if pretrained.is_file_or_name(source.name):
        return {}
    folder, step = pretrained.split_source(source.name)
    with bucket.opened(folder) as here:
        found: dict[str, Any] = {"step": int(step), "config": run_folder.stored_config(here)}
        for name in ("data", "run"):
            path = here / f"{name}.json"
            if path.exists():
                found[name] = run_record.read(path) if name == "run" else json.loads(path.read_text(encoding="utf-8"))
        records = [record for record in read_jsonl(here / "metrics.jsonl") if record["step"] == int(step)]
    found["epoch"] = next((record["epoch"] for record in records if "epoch" in record), None)
    kept = {record["kind"]: record for record in records if record["kind"] in ("validation", "test")}
    found["results"] = [record for record in kept.values() if isinstance(record.get("error"), float)]
    return found


def _network(source: pretrained.Pretrained) -> list[tuple[str, str]]:
    name, given = str(source.model["name"]), source.input
    shape = (*given["image_size"], given["channels"])
    fields = {field: tuple(value) if isinstance(value, list) else value for field, value in source.model.items()}
    create = functools.partial(models.create, num_classes=source.num_classes, input_shape=shape, **fields)
    totals = layer_table.totals(layer_table.layer_table(create, shape), shape)
    usual = models.fields(name)
    changed = [f"{field}={value}" for field, value in fields.items() if field != "name" and value != usual.get(field)]
    size = "x".join(map(str, given["image_size"]))
    crop = f"center of the shorter side at {given['test_resize']}" if given["test_crop"] == "center" else "resized"
    classes = source.classes or []
    more = f", and {len(classes) - MOST} more" if len(classes) > MOST else ""
    names = f": {', '.join(shortened(str(each), 60) for each in classes[:MOST])}{more}" if classes else ""
    named = source.name.startswith((pretrained.BUNDLED, pretrained.hub.PREFIX))
    return [
        *([("weights of", source.name)] if named else []),
        ("architecture", ", ".join([name, *changed])),
        ("parameters", f"{totals.parameters:,}"),
        ("multiply-accumulates for one example", f"{totals.macs:,}"),
        ("input", f"{size}, channels: {given['channels']}; {crop}, {given['interpolation']}"),
        ("classes", f"{source.num_classes:,}{names}"),
    ]


def _training(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, data, starts = run["config"], run.get("data", {}), _starts(run)
    examples = ", ".join(f"{count:,} {part}" for part, count in data.get("examples", {}).items())
    lines = [("data", f"{data.get('name', '?')}: {examples}")] if data else []
    at = f", epoch {run['epoch']:.4g}" if run["epoch"] is not None else ""
    lines.append(("checkpoint", f"step {run['step']:,}{at}"))
    for field in ("duration", "batch_size", "seed", "precision"):
        if field in config:
            lines.append((field.replace("_", " "), str(config[field])))
    if starts:
        machines = dict.fromkeys(run_record.describe(start) for start in starts)
        versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in start["versions"].items()) for start in starts)
        killed = any(start["ended"] is None for start in starts)  # the time after its last save is not recorded
        seconds = duration(sum(start["seconds"]["total"] for start in starts))
        lines += [
            ("hardware", "; ".join(machines)),
            ("time, h:mm:ss", f"{'more than ' if killed else ''}{seconds}"),
            ("date", starts[-1].get("date", "?")),
            ("versions", "; ".join(versions)),
            ("commit", ", ".join(dict.fromkeys(start["commit"] or "none" for start in starts))),
        ]
    recomputed = config.get("eval", {}).get("recompute_statistics", 0)
    if recomputed:
        lines.append(("BatchNorm statistics", f"of training; its evaluation recomputed them from {recomputed} batches"))
    return lines


def _starts(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    return run_record.counted(run["run"]["starts"]) if "run" in run else []


def _commands(run: Mapping[str, Any]) -> list[str]:
    """Returns the commands of the starts, each once, without folders of the machine."""
    found = []
    for start in _starts(run):
        if start["arguments"] is not None:
            arguments = run_record.without(start["arguments"], *PRIVATE)
            command = "finetune" if any(word.startswith("--checkpoint") for word in arguments) else "train"
            found.append(shlex.join(["cnn_jax", command, *arguments]))
    return list(dict.fromkeys(found))


def _results(results: Sequence[Mapping[str, Any]]) -> Sheet:
    def percent(record: Mapping[str, Any], name: str) -> str:
        return f"{100 * (1 - record[name]):.2f}" if isinstance(record.get(name), float) else "-"

    lines = [
        (
            *(record["kind"], f"{record['examples']:,}" if "examples" in record else "-"),
            *(percent(record, "error"), percent(record, "top5_error")),
            *(f"{record['loss']:.4f}" if isinstance(record.get("loss"), float) else "-", record.get("protocol", "-")),
        )
        for record in results
    ]
    return Sheet("Its results", ("part", "examples", "accuracy, %", "top-5, %", "loss, nats", "protocol"), lines)


# ---------------------------------------------------------------- text


def _fields(
    source: pretrained.Pretrained, title: str, data: Any, results: Sequence[Mapping[str, Any]], license: str | None
) -> str:
    """Returns the Hub's fields as YAML, in which every text is a JSON string, so that it cannot be anything else."""
    axes = len(source.input["image_size"])
    task = {2: "image-classification", 3: "video-classification"}.get(axes)
    lines = ["library_name: cnn_jax", *([f"pipeline_tag: {task}"] if task else [])]
    lines.append(f"tags: {json.dumps(['jax', 'flax', 'cnn', str(source.model['name'])])}")
    lines.append("# license: ..." if license is None else f"license: {json.dumps(license)}")
    if results and task and data:
        tested = [
            {
                "task": {"type": task},
                "dataset": {"type": str(data), "name": str(data), "split": record["kind"]},
                "metrics": [{"type": "accuracy", "value": round(1 - record["error"], 6)}],
            }
            for record in results
        ]
        lines.append(f"model-index: {json.dumps([{'name': title, 'results': tested}])}")
    return "\n".join(["---", *lines, "---"])


def _use(source: pretrained.Pretrained, address: str) -> str:
    """Returns how to load and use the network."""
    example = {1: "sequence.npy", 2: "picture.jpg", 3: "clip.npy"}[len(source.input["image_size"])]
    python = f'import cnn_jax\n\nnetwork = cnn_jax.load("{address}")\nnetwork.probabilities(["{example}"])'
    shell = f"cnn_jax predict --checkpoint={address} {example}\ncnn_jax finetune {address} --data=DATASET"
    return f"{_code(python, 'python')}\n\n{_code(shell, 'bash')}"


def _code(text: str, language: str) -> str:
    """Returns a block of code, with a fence that is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"
