"""The folder of a run: its configuration, stored as data, what may change when the run goes on, and its lock."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax.config.compare import differences
from cnn_jax.config.fields import RESUMABLE
from cnn_jax.core.errors import StorageError, UserError, check
from cnn_jax.core.files import locked, storage_errors, write_text, written  # noqa: F401  also by these names here

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts


def retried(action: Callable[[], Any], *, what: str, seconds: float, report: Callable[[str], Any]) -> Any:
    """Returns action(), tried again while storage refuses, for `seconds`, with pauses that double.

    Args:
      action: may be repeated. seconds: from the first refusal. what: begins the message. report: is called with a
        sentence before each pause.

    Raises:
      StorageError: storage still refuses.
    """
    until, pause = None, FIRST_PAUSE
    while True:
        try:
            with storage_errors(what):
                return action()
        except StorageError as error:
            until = time.monotonic() + seconds if until is None else until
            left = until - time.monotonic()
            if left <= 0:
                raise
            report(f"{error}; tried again in {min(pause, left):.1f} s, for {left:.0f} s at most")
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)


def prepare(config: Any, workdir: Path, *, data: dict[str, Any], extend: bool = False) -> None:
    """Writes config.json and data.json, or checks that those in `workdir` compute the same.

    Args:
      data: name, version and sizes of the data set. extend: see `check_same`.

    Raises:
      UserError: the folder holds a run of another configuration or other data; the message shows what differs.
    """
    check_same(config, workdir, extend=extend)
    path = workdir / "data.json"
    if has_checkpoint(workdir) and path.exists():
        differing = differences(json.loads(path.read_text(encoding="utf-8")), data, prefix="")
        if differing:
            raise UserError(
                f"{workdir} holds a run on other data of that name:\n" + "\n".join(differing) + "\n"
                "Give the data as they were (--config.data.dir), or another --workdir for a new run."
            )
    write_text(path, json.dumps(data, indent=2) + "\n")
    write_text(workdir / "config.json", json.dumps(json.loads(config.to_json()), indent=2) + "\n")


# What a network takes and gives: fields of config.data, and the names of the classes (None: unknown).
INPUT = ("image_size", "channels", "test_crop", "test_resize", "mean", "std", "classes")


def write_input(workdir: Path, given: dict[str, Any]) -> None:
    """Writes input.json, the fields of `INPUT`, with which a checkpoint can be used without its data.

    Raises:
      UserError: the folder holds a run on classes of other names, or in another order.
    """
    path = workdir / "input.json"
    if has_checkpoint(workdir) and path.exists():
        before = read_input(workdir)["classes"]
        check(
            before == given["classes"],
            f"{workdir} holds a run on the classes {', '.join(before[:8])}..., but the data have "
            f"{', '.join(given['classes'][:8])}...: give the data as they were, or another --workdir for a new run",
        )
    write_text(path, json.dumps(given) + "\n")


def read_input(workdir: Path) -> dict[str, Any]:
    """Returns what input.json in the folder of a run says; raises UserError if it is missing or damaged."""
    path = workdir / "input.json"
    check(path.exists(), f"{workdir} has no input.json: a run writes it when it starts, so start its command again")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return {field: given[field] for field in INPUT}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: start the command of the run again, which writes it") from None


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether `workdir` has a checkpoint, whole or damaged, but not one that was never finished."""
    names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
    return any(name.removesuffix(".damaged").isdecimal() for name in names)


def stored_config(workdir: Path) -> dict[str, Any]:
    """Returns the configuration of the run in `workdir`; raises UserError if it is damaged."""
    path = workdir / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: remove it, or give another --workdir") from None


def check_same(config: Any, workdir: Path, *, may_differ: tuple[str, ...] = (), extend: bool = False) -> None:
    """Checks that `workdir` holds no run, or one of the same configuration but for fields that may differ.

    Args:
      extend: `config.duration` may differ as well.

    Raises:
      UserError: it holds another one, and the message shows what differs; or its config.json is damaged or missing.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder")
    if not has_checkpoint(workdir):  # there is nothing to go on from, and nothing to lose
        return
    check(
        path.exists(),
        f"{workdir} has checkpoints, but no config.json says of what: put it back, or give another --workdir",
    )
    may_differ = (*RESUMABLE, *may_differ, *(("duration",) if extend else ()))
    differing = differences(stored_config(workdir), json.loads(config.to_json()), may_differ=may_differ)
    if differing:
        only_duration = len(differing) == 1 and differing[0].startswith("  config.duration:")
        way_out = "Give these fields as they were to go on with it, or another --workdir for a new run."
        raise UserError(
            f"{workdir} holds a run of another configuration:\n" + "\n".join(differing) + "\n"
            f"{way_out}{' To train it for longer, add --extend.' if only_duration else ''}"
        )
