"""Trained networks from anywhere: their weights under our names, and their inputs and outputs.

A SOURCE is

    FOLDER, FOLDER@best, FOLDER@STEP   a run of ours; FOLDER alone is its latest checkpoint, and gs:// and s3:// work
    FILE.safetensors                   what `cnn_jax.export` wrote, or weights of others
    FILE.pth, .pt, .bin, .pth.tar      weights of others: torchvision's and timm's state dicts
    hub:OWNER/NAME[@REVISION]          the same two, from the Hugging Face Hub
    bundled:NAME                       a small network that comes with the package: cnn_jax/pretrained/weights/README.md

Nothing in a file is executed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from cnn_jax import models
from cnn_jax.checkpoint import bucket
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config.durations import parse_duration
from cnn_jax.core import files
from cnn_jax.core.errors import UserError, check, check_choice
from cnn_jax.pretrained import hub, state_dicts, torchvision_weights
from cnn_jax.pretrained.recognition import Recognized, recognize
from cnn_jax.pretrained.state_dicts import StateDict
from cnn_jax.tracking import run_folder
from cnn_jax.tracking.run_folder import INPUT, LATER

BUNDLED = "bundled:"
METADATA = "cnn_jax"  # the entry of a file's header that describes the network, as JSON


@dataclass(frozen=True)
class Pretrained:
    """A trained network.

    name: the SOURCE that names it for good: a step instead of "latest" and "best".
    description: for people: what it is and where it comes from.
    model: config.model. input: the fields of `run_folder.INPUT`.
    leaves: name -> array of every parameter and BatchNorm statistic; names as in `trees.named_leaves`.
    """

    name: str
    description: str
    model: Mapping[str, Any]
    input: Mapping[str, Any]
    leaves: Mapping[str, np.ndarray]

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, if they are known."""
        return self.input["classes"]

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        if self.classes is not None:
            return len(self.classes)
        if "head/classifier/kernel" not in self.leaves:
            raise UserError(
                f"{self.name} has no head that tells classes apart: give it one by training, "
                f"cnn_jax finetune {self.name} --data=DATASET"
            )
        return self.leaves["head/classifier/kernel"].shape[-1]


def is_file_or_name(source: str) -> bool:
    """Returns whether a SOURCE is only weights (bundled, on the Hub or in a file) and not a run."""
    if source.startswith((BUNDLED, hub.PREFIX)):
        return True
    path = files.expanded(source)
    return path.is_file() or (path.name.endswith((".safetensors", *state_dicts.SUFFIXES)) and not path.is_dir())


def open_source(source: str) -> Pretrained:
    """Returns the network that a SOURCE names.

    Raises:
      UserError: there is no such source, or it is damaged or of another kind.
    """
    if source.startswith(BUNDLED):
        return _ours(state_dicts.read(bundled()[_bundled_name(source)]), source)
    if source.startswith(hub.PREFIX):
        fetched = hub.fetch(source)
        found = state_dicts.read(fetched.weights)
        ours = METADATA in found.metadata
        return _ours(found, fetched.source) if ours else _foreign(found, fetched.source, fetched.config)
    source = str(files.expanded(source)) if source.startswith("~") else source
    if is_file_or_name(source):
        found = state_dicts.read(Path(source))
        return _ours(found, source) if METADATA in found.metadata else _foreign(found, source, None)
    return _from_run(source)


# ---------------------------------------------------------------- runs


def split_source(source: str) -> tuple[Path | str, str]:
    """Returns (folder of a run or its URL, "latest", "best" or a step)."""
    folder, _, which = source.rpartition("@")
    if which in ("latest", "best") or (which.isdecimal() and folder):
        return files.located("the trained network", folder), which
    return files.located("the trained network", source), "latest"  # a folder alone, whose name may have an @


def _from_run(source: str) -> Pretrained:
    folder, which = split_source(source)
    check(
        isinstance(folder, str) or folder.is_dir(),
        f"there is no trained network {source!r}: name the folder of a run (FOLDER, FOLDER@best, FOLDER@STEP), "
        f"bundled:NAME ({', '.join(bundled())}), FILE.safetensors, FILE.pth or hub:OWNER/NAME",
    )
    with bucket.opened(folder) as here:
        path = here / "config.json"
        check(path.exists(), f"{folder} holds no run: there is no {path}")
        config = run_folder.stored_config(here)
        given = run_folder.read_input(here)
        with Checkpoints(here, shared=isinstance(folder, Path)) as checkpoints:

            def read(step: int) -> dict[str, np.ndarray]:
                leaves, run = checkpoints.read_weights(step), checkpoints.run(step)
                run_folder.check_identity(run, run_folder.identity(config), checkpoints.folder / str(step))
                return leaves

            step, leaves = checkpoints.read_chosen(which, read, flag=f"the checkpoint in {source!r}")
    recomputes = config.get("eval", {}).get("recompute_statistics", 0)
    if parse_duration(config.get("swa_last", "0 epochs"))[0]:
        recomputes = 0  # a mean of weights is saved with recomputed statistics
    note = "; BatchNorm statistics are those of training, its test recomputed them" if recomputes else ""
    return Pretrained(
        name=f"{folder}@{step}",
        description=f"{config['model']['name']} of {folder}, step {step:,}{note}",
        model=config["model"],
        input=given,
        leaves=leaves,
    )


# ---------------------------------------------------------------- files of ours

NAMES = ("ours", "torchvision")  # of the arrays in a file


def bundled() -> dict[str, Path]:
    """Returns the files of the networks that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "weights").glob("*.safetensors"))}


def _bundled_name(source: str) -> str:
    name, names = source.removeprefix(BUNDLED), list(bundled())
    check_choice(f"the name behind {BUNDLED}", name, names)
    return name


def _ours(found: StateDict, source: str) -> Pretrained:
    try:
        about = json.loads(found.metadata[METADATA])
        model, given = dict(about["model"]), {field: (LATER | about["input"])[field] for field in INPUT}
        name, names = str(model["name"]), about.get("names", NAMES[0])
        run_folder.check_input(given)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{source} is damaged: its header describes no network") from None
    if names == NAMES[0]:
        leaves = found.read()
    else:
        leaves, _ = _converted(found, source, _recognized(found, source), given["image_size"])
    return Pretrained(name=source, description=f"{name} of {source}", model=model, input=given, leaves=leaves)


def save(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    model: Mapping[str, Any],
    given: Mapping[str, Any],
    names: str = NAMES[0],
) -> None:
    """Writes a safetensors file of weights that says which network they belong to.

    Args:
      model: config.model. given: the fields of `run_folder.INPUT`. names: whose names the arrays have, one of `NAMES`.

    Raises:
      StorageError: the file cannot be written; an earlier file is still there.
    """
    from safetensors.numpy import save as serialize

    about = json.dumps({"model": dict(model), "input": {field: given[field] for field in INPUT}, "names": names})
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with files.written(path) as partial:
        partial.write_bytes(serialize(contiguous, metadata={METADATA: about}))


# ---------------------------------------------------------------- files of others

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}
# Fields that change training only.
OF_TRAINING = {
    *("num_classes", "input_shape", "dtype", "dropout", "auxiliary_dropout", "auxiliary_weight"),
    *("init", "initial_bias", "zero_gamma", "norm_decay", "stochastic_depth"),
}


def structure(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all fields of a network that say what it computes, with defaults for those that are not given."""
    left_out = OF_TRAINING.union(models.settled(name))
    fields = {field: value for field, value in models.fields(name).items() if field not in left_out}
    fields |= {field: value for field, value in given.items() if field in fields}
    return {field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()}


def _recognized(found: StateDict, source: str) -> Recognized:
    try:
        return recognize(found.shapes)
    except UserError as error:
        raise UserError(f"{source} cannot be used: {error}") from None


def _converted(
    found: StateDict, source: str, network: Recognized, image_size: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns (our name -> array, names left out); one message lists all that does not fit, before values are read."""

    headless = network.num_classes == 0

    def flat(shape: tuple[int, ...]) -> tuple[int, ...]:  # timm's linear layers that are written as convolutions
        return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape

    ours = {there: name for name, there in network.names.items()}
    size = {"num_classes": network.num_classes or 1000, "input_shape": (*image_size, network.channels)}
    try:
        model = nnx.eval_shape(lambda: models.create(network.name, **size, **network.fields))
    except UserError as error:
        raise UserError(f"{source} looks like {network.name}, which cannot be built: {error}") from None
    names = _own_names(found.shapes, network, model)
    shapes = {ours.get(name, name): found.shapes[full] for name, full in names.items()}
    shapes |= {ours[name]: flat(found.shapes[full]) for name, full in names.items() if name in ours}
    listed = torchvision_weights.misfits(model, shapes, headless=headless)
    check(
        not listed,
        f"{source} looks like {network.name}, but is another network or a variant that is not built here: {listed}",
    )
    values = found.read()
    weights = {ours.get(name, name): values[full] for name, full in names.items()}
    weights = {name: value.reshape(shapes[name]) for name, value in weights.items()}
    beside = [name for name in found.shapes if name not in names.values()]
    return torchvision_weights.convert(model, weights, headless=headless), beside


def _own_names(shapes: Mapping[str, Any], network: Recognized, model: nnx.Module) -> dict[str, str]:
    """Returns {name of a weight without the prefix: its full name} for the network's weights.

    A head of another form is left out, and so are arrays outside the network: names whose first part, such as `queue`
    of `queue.weight`, names none of its layers.
    """
    inside = {name.removeprefix(network.prefix): name for name in shapes if name.startswith(network.prefix)}
    theirs = {network.names.get(name, name) for name in torchvision_weights.names(model).values()}
    parts = {name.split(".")[0] for name in theirs}
    return {name: full for name, full in inside.items() if name.split(".")[0] in parts and name not in network.head}


def _foreign(found: StateDict, source: str, config: Mapping[str, Any] | None) -> Pretrained:
    """Returns the network that third-party weights belong to.

    Args:
      config: what timm wrote about them on the Hub, or None.
    """
    network = _recognized(found, source)
    given: dict[str, Any] = {"image_size": [224, 224], "test_crop": "center", "test_resize": 256, "classes": None}
    given |= {"interpolation": "bilinear"}
    usual_input = HALVES if network.name == "googlenet" else IMAGENET  # torchvision's was trained elsewhere
    assumed = network.channels != 3
    if assumed:  # for grayscale pictures, or with a further channel: the mean over the colors
        usual_input = {name: [round(float(np.mean(x)), 4)] * network.channels for name, x in usual_input.items()}
    given |= usual_input
    told, notes = ({}, []) if config is None else hub.describe(config, source, network.num_classes)
    given |= told | {"channels": network.channels}
    check(
        len(given["mean"]) == len(given["std"]) == network.channels and min(given["std"]) > 0,
        f"{source} takes images of {network.channels} channels, but the normalization known for it is mean "
        f"{given['mean']} and deviation {given['std']}",
    )
    leaves, beside = _converted(found, source, network, given["image_size"])
    model = structure(network.name, network.fields)
    usual = structure(network.name, {})
    variant = ", ".join(f"{field}={value}" for field, value in model.items() if value != usual[field])
    (height, width), mean, std = given["image_size"], given["mean"], given["std"]
    classes = f"{network.num_classes:,} classes" + ("" if given["classes"] else ", names unknown")
    bicubic = ", bicubic" if given["interpolation"] == "bicubic" else ""
    known = "its config.json says" if told else "is assumed" if assumed else "in torchvision"
    parts = [
        classes if network.num_classes else "no head of the network's own form: it needs training",
        f"normalized with mean {mean} and deviation {std}, as {known}",
        *([f"names without {network.prefix!r}"] if network.prefix else []),
        *([f"left out: {', '.join(beside[:6])}{', ...' * (len(beside) > 6)}"] if beside else []),
        f"shorter side to {given['test_resize']} pixels{bicubic}, center of {height}x{width}",
        *notes,
        *([f"converted from {', '.join(found.dtypes)}"] if found.dtypes != ("float32",) else []),
        *([found.note] if found.note else []),
    ]
    name = f"{network.name} ({variant})" if variant else network.name
    return Pretrained(source, f"{name} of {source}; {'; '.join(parts)}", {"name": network.name} | model, given, leaves)
