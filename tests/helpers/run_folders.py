"""Folders of finished runs, made without training."""

import copy
import json

from cnn_jax.reporting import runs

CONFIG = {
    "seed": 0,
    "duration": "10 epochs",
    "batch_size": 50,
    "ema_decay": 0.0,
    "model": {"name": "resnet34", "shortcut": "B", "width": 1.0},
    "data": {
        "name": "imagenet2012",
        "dir": "",
        "image_size": [224, 224],
        "channels": 3,
        "test": "validation",
        "train_on": "train",
        "test_crop": "center",
        "test_resize": 256,
    },
    "eval": {"recompute_statistics": 0, "confusion_matrix": False},
    "checkpoint": {"keep": 2},
    "log": {"every": "50 steps"},
}
DATA = {"name": "imagenet2012/5.1.0", "examples": {"train": 1000, "test": 50000}}
START = {
    "arguments": ["--config=configs/resnet34.py:imagenet2012"],
    "first_step": 0,
    "last_step": 200,
    "ended": "done",
    "seconds": {"total": 100.0, "training": 60.0, "evaluation": 5.0, "saving": 1.0, "compilation": 20.0},
    "processor": "A",
    "cores": 2,
    "devices": "1 x cpu (cpu)",
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "commit": "0123456789abcdef-dirty",
}


def put(tree, name, value):
    *path, last = name.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def make(folder, *, error=0.25, top5=0.08, changes=(), data=(), starts=(START,), changed=(), step=200, kind="test"):
    """Writes the folder of a run of 10 epochs of 1000 examples in batches of 50: 200 steps."""
    config, identity = copy.deepcopy(CONFIG), copy.deepcopy(DATA)
    for tree, items in ((config, dict(changes)), (identity, dict(data))):
        for name, value in items.items():
            put(tree, name, value)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps(identity))
    test = {"kind": kind, "step": step, "epoch": step / 20, "error": error, "top5_error": top5, "examples": 50000}
    records = [{"kind": "train", "step": step, "epoch": step / 20, "loss": 1.0}, test]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if starts:
        run = {"parameters": 21797672, "macs": 1, "changed": dict(changed), "starts": list(starts)}
        (folder / "run.json").write_text(json.dumps(run))
    return folder


def seeds(tmp_path, *errors, **options):
    """Makes runs of the seeds 0, 1, ... and returns their folders."""
    arguments = START["arguments"]
    found = []
    for seed, error in enumerate(errors):
        start = START | {"arguments": [*arguments, f"--config.seed={seed}"] if seed else arguments}
        folder = tmp_path / f"{len(list(tmp_path.glob('*')))}"
        given = options | {"changes": dict(options.get("changes", ())) | {"seed": seed}}
        found.append(make(folder, error=error, **({"starts": (start,)} | given)))
    return found


def grouped(folders):
    groups, left_out = runs.group(runs.read(folder) for folder in folders)
    return groups, left_out
