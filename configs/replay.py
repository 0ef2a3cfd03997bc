"""Runs a recorded configuration again.

    python -m cnn_jax.main --config=configs/replay.py:runs/NAME/config.json

Fields that were added since the record was written take their defaults.
"""

import json
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(path: str = "") -> ConfigDict:
    """Returns the configuration stored in the JSON file at `path`.

    Raises:
      ValueError: the file cannot be read or is damaged.
      KeyError: it has a field that no longer exists.
    """
    if not path:
        raise ValueError("name the recorded file: --config=configs/replay.py:runs/NAME/config.json")
    try:
        with open(path, encoding="utf-8") as file:
            stored = _tuples(json.load(file))
        config = fields.defaults()
        config.model = stored.pop("model")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, AttributeError, KeyError):
        raise ValueError(f"{path} is damaged: it holds no configuration of a run") from None
    config.lock()  # from here on an unknown field is an error
    config.update(stored)
    return config


def _tuples(value: Any) -> Any:
    """JSON has lists only; a configuration has tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
