"""Trained networks from anywhere: their weights under our names, and what they take and give.

A SOURCE is

    FOLDER, FOLDER@best, FOLDER@STEP   a run of ours; FOLDER alone is its latest checkpoint
    FILE.safetensors                   what `cnn_jax.export` wrote
    bundled:NAME                       a small network that comes with the package: cnn_jax/weights/README.md

Nothing in a file is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import workdir
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.errors import UserError, check, check_choice
from cnn_jax.workdir import INPUT

BUNDLED = "bundled:"
METADATA = "cnn_jax"  # the entry of a file's header that describes the network, as JSON


@dataclass(frozen=True)
class Pretrained:
    """A trained network.

    name: the SOURCE that names it for good: a step in the place of "latest" and "best".
    description: for people: what it is and where it comes from.
    model: config.model. input: the fields of `workdir.INPUT`.
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
                f"{self.name} names no classes, and has no head/classifier/kernel that tells how many there are"
            )
        return self.leaves["head/classifier/kernel"].shape[-1]


def open_source(source: str) -> Pretrained:
    """Returns the network that a SOURCE names.

    Raises:
      UserError: there is no such source, or it is damaged or of another kind.
    """
    if source.startswith(BUNDLED):
        return _from_file(bundled()[_bundled_name(source)], name=source)
    path = Path(source)
    if path.suffix == ".safetensors":
        return _from_file(path)
    return _from_run(source)


# ---------------------------------------------------------------- runs


def split_source(source: str) -> tuple[Path, str]:
    """Returns (folder of a run, "latest", "best" or a step)."""
    folder, _, which = source.rpartition("@")
    if which in ("latest", "best") or (which.isdecimal() and folder):
        return Path(folder), which
    return Path(source), "latest"  # a folder alone, whose name may have an @


def _from_run(source: str) -> Pretrained:
    folder, which = split_source(source)
    check(folder.is_dir(), f"there is no run, file or bundled network {source!r}")
    check((folder / "config.json").exists(), f"{folder} holds no run: there is no {folder / 'config.json'}")
    config = workdir.stored_config(folder)
    given = workdir.read_input(folder)
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.select(which, lambda text: None, flag=f"the checkpoint in {source!r}")
        leaves = checkpoints.read_weights(step)
    return Pretrained(
        name=f"{folder}@{step}",
        description=f"{config['model']['name']} of {folder}, step {step:,}",
        model=config["model"],
        input=given,
        leaves=leaves,
    )


# ---------------------------------------------------------------- files of ours


def bundled() -> dict[str, Path]:
    """Returns the files of the networks that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "weights").glob("*.safetensors"))}


def _bundled_name(source: str) -> str:
    name, names = source.removeprefix(BUNDLED), list(bundled())
    check_choice(f"the name behind {BUNDLED}", name, names)
    return name


def _from_file(path: Path, *, name: str = "") -> Pretrained:
    from safetensors import SafetensorError, safe_open

    check(path.is_file(), f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    check(METADATA in metadata, f"{path} does not say which network it holds")
    try:
        about = json.loads(metadata[METADATA])
        model, given = dict(about["model"]), {field: about["input"][field] for field in INPUT}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: its header describes no network") from None
    name = name or str(path)
    return Pretrained(name=name, description=f"{model['name']} of {name}", model=model, input=given, leaves=leaves)


def save(path: Path, leaves: Mapping[str, np.ndarray], *, model: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Writes a safetensors file of weights under any names that says which network they are of.

    Args:
      model: config.model. given: the fields of `workdir.INPUT`.
    """
    from safetensors.numpy import save_file

    about = json.dumps({"model": dict(model), "input": {field: given[field] for field in INPUT}})
    partial = path.with_name(path.name + ".partial")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    with workdir.storage_errors(f"{path} cannot be written"):
        save_file(arrays, partial, metadata={METADATA: about})
        partial.replace(path)
