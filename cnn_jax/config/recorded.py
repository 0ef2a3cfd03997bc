"""The configuration of a recorded run, as its config.json has it."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.config import fields
from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import expanded, read_json


def read(run: str | Path) -> ConfigDict:
    """Returns the configuration of the run in a folder, or in its config.json; fields added since have their defaults.

    Raises:
      UserError: the file cannot be read or is damaged, or has a field that no longer exists.
    """
    path = expanded(run)
    check(path.exists(), f"{run} holds no run: there is no {path if path.suffix == '.json' else path / 'config.json'}")
    path = path / "config.json" if path.is_dir() else path
    try:
        stored = _tuples(read_json(path))
        config = fields.defaults()
        config.model = stored.pop("model")
        for field in fields.OPEN:
            _take(config, stored, field)
        if (files := stored.get("log", {}).pop("tensorboard", None)) is not None:  # older runs have it
            stored["log"]["trackers"] = "tensorboard" if files else ""
        config.lock()  # from here on an unknown field is an error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: it holds no configuration of a run") from None
    try:
        config.update(stored)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit this version: {explain(error)}") from None
    return config


def _take(config: ConfigDict, stored: dict[str, Any], field: str) -> None:
    """Moves the arguments that a field holds, whatever they are called, to a configuration."""
    *sections, leaf = field.split(".")
    place: Any = config
    for section in sections:
        place, stored = place[section], stored.get(section, {})
    place[leaf] = dict(stored.pop(leaf, {}))


def explain(error: Exception) -> str:
    """Returns what a user can make use of in an error of ml_collections: the field or the value."""
    message = str(error)
    if not isinstance(error, (KeyError, AttributeError)):
        return message
    missing, *hint = message.replace("\\n", "\n").replace("\\'", "'").strip("'\"").split("\n")
    return "; ".join([f"the configuration has no field {missing.strip(chr(39))!r}", *hint])


def _tuples(value: Any) -> Any:
    """JSON has lists only; a configuration has tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
