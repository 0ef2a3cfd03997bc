"""The folder of a run: config.json, data.json and input.json, and whether a run may resume there."""

import contextlib
import hashlib
import json
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.config.compare import default_of, differences, flat, is_one_of
from cnn_jax.config.fields import RESUMABLE
from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import read_json, write_text
from cnn_jax.data.dataset import INTERPOLATIONS, SEEN

EXTENDABLE = ("duration", "eval.patience")  # fields that say when a run ends
STEP = re.compile(r"0|[1-9][0-9]*")  # the name of a checkpoint's folder
ANOTHER = "or give another --workdir for a new run"
# What a run writes, and so what must not be of another kind.
FILES = (
    *("config.json", "data.json", "input.json", "run.json", "layers.json", "summary.txt"),
    *("metrics.jsonl", "evaluations.jsonl", ".lock"),
)
FOLDERS = ("checkpoints", "tensorboard", "profile", "not_finite")


def prepare(config: Any, workdir: Path, *, data: dict[str, Any], extend: bool = False) -> list[str]:
    """Writes config.json and data.json, or checks that those in `workdir` compute the same.

    Args:
      data: name, version, sizes and digest of the data set. extend: see `check_same`.

    Returns:
      A sentence for each file that was damaged or missing and is written again.

    Raises:
      UserError: the folder holds a run of another configuration or other data; the message shows what differs.
    """
    check_same(config, workdir, extend=extend)
    notes = []
    if has_checkpoint(workdir):
        own, saved = identity(json.loads(config.to_json()), data), saved_identity(workdir)
        with contextlib.suppress(UserError):
            stored_config(workdir)
            own.pop("fields")
        if "fields" in own:
            notes.append("config.json was missing or damaged: it is written again, as the checkpoints have it")
        try:
            differing = differences(*comparable(read_json(workdir / "data.json"), data), prefix="")
        except UserError as damage:
            differing = [] if saved.get("data") in (None, own["data"]) else [f"  {damage}; its checkpoints say so"]
            notes.append("data.json was missing or damaged: it is written again")
        if differing:
            raise UserError(
                f"{workdir} holds a run on other data:\n" + "\n".join(differing) + "\n"
                "Give the data as they were (--config.data.dir), or another --workdir for a new run."
            )
    write_text(workdir / "data.json", json.dumps(data, indent=2) + "\n")
    write_text(workdir / "config.json", json.dumps(json.loads(config.to_json()), indent=2) + "\n")
    return notes


def comparable(before: Any, now: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what two versions of data.json must have in common: an older one has no digest, but a folder's name.

    Raises:
      UserError: the one before is not an object.
    """
    check(isinstance(before, dict), "data.json is damaged: it describes no data")
    if "digest" not in before or "digest" not in now:
        before, now = ({name: value for name, value in one.items() if name != "digest"} for one in (before, now))
    if str(before.get("name")).startswith("folder ") and now["name"] == "folder":
        before = before | {"name": "folder"}
    return before, now


def identity(config: dict[str, Any], data: dict[str, Any] | None = None) -> dict[str, str]:
    """Returns SHA-256 of what a checkpoint depends on: "fields" of the configuration, and "data".

    Left out are fields that may change on resume, and those at their defaults: so later versions may have more.

    Args:
      config: as config.json has it. data: as data.json has it, or None: left out.
    """
    free, network = (*RESUMABLE, *EXTENDABLE), config.get("model", {}).get("name")
    fields = {
        name: value
        for name, value in flat(config).items()
        if not is_one_of(name, free) and value != default_of(name, network)
    }
    return {"fields": _digest(fields)} | ({} if data is None else {"data": _digest(data)})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def saved_identity(workdir: Path) -> dict[str, str]:
    """Returns the identity that the latest manifest of `workdir` records; {} if none does."""
    folder = workdir / "checkpoints"
    steps = sorted((int(path.name) for path in folder.iterdir() if STEP.fullmatch(path.name)), reverse=True)
    for step in steps:
        with contextlib.suppress(UserError, AttributeError, TypeError):
            if found := read_json(folder / str(step) / "manifest.json").get("run"):
                return dict(found)
    return {}


def check_identity(saved: dict[str, str], own: dict[str, str], checkpoint: Path) -> None:
    """Raises UserError if a checkpoint was saved by another run than that of its folder.

    Args:
      saved: of its manifest; older ones have none. own: see `identity`.
    """
    differing = [name for name in own if name in saved and saved[name] != own[name]]
    what = {"fields": "configuration", "data": "data"}
    check(
        not differing,
        f"{checkpoint} was saved by another run: its {' and '.join(what[name] for name in differing)} is not that of "
        "this folder. Move it away, and the checkpoint before is used",
    )


# What a network takes and gives: fields of config.data, and the names of the classes (None: unknown).
INPUT = (*SEEN, "mean", "std", "classes")
LATER = {"interpolation": "bilinear"}  # fields that older files lack, and what they meant


def write_input(workdir: Path, given: dict[str, Any]) -> None:
    """Writes input.json, the fields of `INPUT`, with which a checkpoint can be used without its data.

    Raises:
      UserError: the folder holds a run on classes of other names, or in another order.
    """
    before = None
    if has_checkpoint(workdir):
        with contextlib.suppress(UserError):  # missing or damaged: configuration and data are checked, so it is known
            before = read_input(workdir)["classes"]
    if before is not None and before != given["classes"]:
        raise UserError(
            f"{workdir} holds a run on the classes {', '.join(map(str, before[:8]))}..., but the data have "
            f"{', '.join(given['classes'][:8])}...: give the data as they were, {ANOTHER}"
        )
    write_text(workdir / "input.json", json.dumps(given) + "\n")


def read_input(workdir: Path) -> dict[str, Any]:
    """Returns what input.json in the folder of a run says; raises UserError if it is missing or damaged."""
    path = workdir / "input.json"
    check(path.exists(), f"{workdir} has no input.json: a run writes it when it starts, so start its command again")
    try:
        given = read_json(path)
        check_input(found := {field: (LATER | given)[field] for field in INPUT})
        return found
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: start the command of the run again, which writes it") from None


def check_input(given: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError unless the fields of `INPUT` are such, and fit each other."""
    shape = (*map(operator.index, given["image_size"]), operator.index(given["channels"]))
    mean, std = (np.asarray(given[field], np.float32) for field in ("mean", "std"))
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("mean and std must be finite, std above 0")
    for values in (mean, std):
        if np.broadcast_shapes(values.shape, shape) != shape:
            raise ValueError(f"mean and std do not fit images {shape}")
    if given["interpolation"] not in INTERPOLATIONS:
        raise ValueError("images are resized in no way that is known here")
    if min(shape) < 1 or operator.index(given["test_resize"]) < 0 or given["test_crop"] not in ("resize", "center"):
        raise ValueError("no images are seen so")
    if given["classes"] is not None and not all(isinstance(name, str) for name in given["classes"]):
        raise TypeError("classes have no names")


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether `workdir` has a checkpoint, whole or damaged, but not one that was never finished."""
    names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
    return any(STEP.fullmatch(name.removesuffix(".damaged")) for name in names)


def last_step(workdir: Path) -> int:
    """Returns the step of the latest checkpoint in `workdir`, whole or not yet found damaged; 0 if there is none."""
    names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if STEP.fullmatch(name)), default=0)


def stored_config(workdir: Path) -> dict[str, Any]:
    """Returns the configuration of the run in `workdir`; raises UserError if it is missing or damaged."""
    path = workdir / "config.json"
    check(path.exists(), f"{workdir} has no config.json")
    found = read_json(path)
    sections = ("model", "data", "optim", "eval")
    whole = isinstance(found, dict) and all(isinstance(found.get(name, {}), dict) for name in sections)
    check(
        whole and isinstance(found.get("model", {}).get("name"), str),
        f"{path} is damaged: it holds no configuration of a run",
    )
    return found


def check_kinds(workdir: Path) -> None:
    """Raises UserError where the folder of a run has a folder or a pipe instead of a file, or the reverse."""
    check(workdir.is_dir() or not workdir.exists(), f"--workdir={workdir} is a file: name a folder")
    for name in FILES:
        path = workdir / name
        check(
            path.is_file() or not path.exists(),
            f"{path} must be a file, but is not: move it away, {ANOTHER}",
        )
    for name in FOLDERS:
        path = workdir / name
        check(
            path.is_dir() or not path.exists(),
            f"{path} must be a folder, but is not: move it away, {ANOTHER}",
        )


def check_same(config: Any, workdir: Path, *, may_differ: tuple[str, ...] = (), extend: bool = False) -> None:
    """Checks that `workdir` holds no run, or one of the same configuration but for fields that may differ.

    Where config.json is missing or damaged, the manifest of the latest checkpoint tells.

    Args:
      extend: the fields of `EXTENDABLE` may differ as well.

    Raises:
      UserError: it holds another one, and the message shows what differs; or nothing says which one it holds.
    """
    check_kinds(workdir)
    if not has_checkpoint(workdir):  # there is nothing to resume from, and nothing to lose
        return
    own = json.loads(config.to_json())
    try:
        before = stored_config(workdir)
    except UserError as damage:
        saved = saved_identity(workdir).get("fields")
        check(
            saved is not None,
            f"{damage}, and the checkpoints there do not say of which configuration they are: put config.json back "
            f"from a copy, {ANOTHER}",
        )
        check(
            saved == identity(own)["fields"],
            f"{damage}, and the checkpoints there are of another configuration than this command's: give all fields "
            f"as they were, and config.json is written again, {ANOTHER}",
        )
        return
    may_differ = (*RESUMABLE, *may_differ, *(EXTENDABLE if extend else ()))
    differing = differences(before, own, may_differ=may_differ)
    if differing:
        only_longer = all(line.startswith(tuple(f"  config.{name}:" for name in EXTENDABLE)) for line in differing)
        way_out = "Give these fields as they were to resume it, or another --workdir for a new run."
        raise UserError(
            f"{workdir} holds a run of another configuration:\n" + "\n".join(differing) + "\n"
            f"{way_out}{' To train it for longer, add --extend.' if only_longer else ''}"
        )
