"""Runs a recorded configuration again; `--from=runs/NAME` does the same.

    cnn_jax train --config=replay:runs/NAME/config.json

Fields that were added since the record was written take their defaults.
"""

from ml_collections import ConfigDict

from cnn_jax.config import recorded


def get_config(path: str = "") -> ConfigDict:
    """Returns the configuration stored in the JSON file at `path`.

    Raises:
      ValueError: no path is given, or the file cannot be read, is damaged, or has a field that no longer exists.
    """
    if not path:
        raise ValueError("name the recorded file: --config=replay:runs/NAME/config.json")
    return recorded.read(path)
