"""Recipes by name: the files in configs/ of a clone, which are in cnn_jax/recipes/ of an installed package.

A recipe has `get_config(dataset) -> ConfigDict`. It is run from its file, not imported, and imports `cnn_jax` and
`ml_collections` only. One that builds on another calls `get_config` here:

    def get_config(dataset: str = "digits") -> ConfigDict:
        return recipes.get_config("resnet50", dataset, name="resnet18")
"""

import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.core.errors import UserError, check, check_choice

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Returns the folder of the recipes.

    Raises:
      UserError: there is none.
    """
    inside, beside = PACKAGE / "recipes", PACKAGE.parent / "configs"
    found = next((path for path in (inside, beside) if path.is_dir()), None)
    if found is None:
        raise UserError(f"there are no recipes: neither {inside} nor {beside} is a folder. Install the package again")
    return found


def names() -> list[str]:
    """Returns the names of all recipes."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Path:
    """Returns the file of a recipe; raises UserError with the near match if there is none."""
    check_choice("the recipe", name, names())
    return folder() / f"{name}.py"


def get_config(recipe: str, /, *args: Any, **kwargs: Any) -> ConfigDict:
    """Returns `get_config(*args, **kwargs)` of a recipe, by its name."""
    return _run(find(recipe), *args, **kwargs)


def load(recipe: str | Path, argument: str | None = None) -> ConfigDict:
    """Returns the configuration of a recipe, not locked.

    Args:
      recipe: a name, or a path that ends in .py.
      argument: what follows the colon on the command line, such as a data set; None: the recipe's default.

    Raises:
      UserError: there is no such recipe.
    """
    path = Path(recipe)
    if path.suffix == ".py":
        check(path.is_file(), f"there is no recipe {str(path)!r}")
    else:
        path = find(str(recipe))
    return _run(path) if argument is None else _run(path, argument)


def _run(path: Path, /, *args: Any, **kwargs: Any) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args, **kwargs)
