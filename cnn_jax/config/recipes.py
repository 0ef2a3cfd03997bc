"""The recipes by name: configs/ of a clone, or the copies that an installed package carries."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check, near

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "configs")  # of a wheel, of a clone


def folder() -> Path:
    """Returns the folder of the recipes."""
    return next((path for path in FOLDERS if path.is_dir()), FOLDERS[0])


def names() -> list[str]:
    """Returns the names of all recipes."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def find(name: str) -> Path:
    """Returns the file of a recipe; raises UserError, with the near match, if there is none of that name."""
    check(name in names(), f"no recipe is called {name!r}{near(name, names())} (`cnn_jax train --list` shows all)")
    return folder() / f"{name}.py"


def summary(name: str) -> str:
    """Returns the first line of a recipe's docstring."""
    text = ast.get_docstring(ast.parse(find(name).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def listing() -> str:
    """Returns the names of all recipes, each with its line."""
    shown = [name for name in names() if name not in ("finetune", "replay")]  # commands of their own
    return "\n".join(f"{name:16} {summary(name)}" for name in shown)


def load(recipe: str, argument: str | None = None) -> Any:
    """Returns the configuration of a recipe, by its name or the path of its file.

    Args:
      argument: what stands behind the colon, the data set; None: the recipe's default.

    Raises:
      UserError: there is no such recipe, or it refuses the argument.
    """
    path = _path(recipe) if "/" in recipe or recipe.endswith(".py") or Path(recipe).is_file() else find(recipe)
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(*([] if argument is None else [argument]))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (ValueError, KeyError) as error:
        raise UserError(str(error)) from None


def _path(recipe: str) -> Path:
    path = Path(recipe)
    check(path.suffix == ".py" or not path.is_file(), f"{recipe!r} is no configuration file: those end in .py")
    if not path.is_file():
        known = sorted(str(other) for other in path.parent.glob("*.py"))
        by_name = f"; the recipe of that name is --config={path.stem}" if path.stem in names() else ""
        raise UserError(f"there is no file {recipe!r}{near(recipe, known) or by_name}")
    return path
