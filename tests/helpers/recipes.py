"""The configuration files by name."""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

import configs

FILES = {path.stem: path for path in sorted(Path(configs.__file__).parent.glob("*.py"))}
NETWORKS = sorted(set(FILES) - {"__init__", "finetune", "replay"})


def get_config(name: str, *args: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(*args)
