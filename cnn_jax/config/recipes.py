"""Recipes by name: the files in configs/ of a clone, which are in cnn_jax/recipes/ of an installed package.

A recipe has `get_config(dataset) -> ConfigDict`. It is run from its file, not imported, and imports `cnn_jax` and
`ml_collections` only. One that builds on another calls `get_config` here:

    def get_config(dataset: str = "digits") -> ConfigDict:
        return recipes.get_config("resnet50", dataset, name="resnet18")
"""

import ast
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check, check_choice, near
from cnn_jax.core.files import expanded

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
      recipe: a name, or the path of a file that ends in .py.
      argument: what follows the colon on the command line, such as a data set; None: the recipe's default.

    Raises:
      UserError: there is no such recipe, it cannot be parsed, it refuses the argument, it raises anything else (with
        the user's traceback), or it returns no configuration.
    """
    path = expanded(recipe)
    is_name = len(path.parts) == 1 and path.suffix != ".py" and not path.is_file()
    path = find(str(recipe)) if is_name else _file(path)
    return _run(path) if argument is None else _run(path, argument)


def listing() -> str:
    """Returns the names of all recipes, each with the first line of its docstring."""
    shown = [name for name in names() if name not in ("finetune", "replay")]  # `cnn_jax finetune`, and --from
    return "\n".join(f"{name:16} {_summary(name)}" for name in shown)


def _summary(name: str) -> str:
    text = ast.get_docstring(ast.parse(find(name).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _file(path: Path) -> Path:
    """Returns the path of a recipe's file; raises UserError, with the near match, if there is none."""
    check(path.suffix == ".py" or not path.is_file(), f"{str(path)!r} is not a configuration file: those end in .py")
    if not path.is_file():
        files = sorted(map(str, path.parent.glob("*.py")))
        named = f"; the recipe of that name is {path.stem}" if path.stem in names() else ""
        raise UserError(f"there is no file {str(path)!r}{near(str(path), files) or named}")
    return path


def _run(path: Path, /, *args: Any, **kwargs: Any) -> ConfigDict:
    module = imports.run_file(path, "get_config")
    with imports.errors_of(path):
        found = module.get_config(*args, **kwargs)
    check(
        isinstance(found, ConfigDict),
        f"{path}: get_config returned {_kind(found)}, but must return a ConfigDict, such as "
        "cnn_jax.config.fields.get_config(dataset, network) with changes",
    )
    return found


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
