"""Objects of the user's own packages by import path, such as "mypackage.nets:MyNet"."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.core.rules import Choice

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_path(name: Any) -> bool:
    """Returns whether a name is an import path, "module:attribute"."""
    return isinstance(name, str) and PATH.fullmatch(name) is not None


class ChoiceOrPath(Choice):
    """One of a few words, or an import path."""

    def check(self, name: str, value: Any) -> None:
        if not is_path(value):
            super().check(name, value)


@contextlib.contextmanager
def errors_of(file: Path) -> Iterator[None]:
    """Raises one UserError, with the line, for whatever the user's code in `file` raises; his traceback is below it.

    A ValueError is taken for a message of his own. A UserError of ours stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename or file}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [i for i, frame in enumerate(frames) if frame.filename == os.path.abspath(file)]
        line = f", line {frames[own[-1]].lineno}" if own else ""
        says_itself = type(error) is ValueError and own and own[-1] == len(frames) - 1
        name = "" if says_itself else f"{type(error).__name__}: "
        text = f"{file}{line}: {name}{error}"
        if own and not says_itself:
            text += "\n" + "".join(traceback.format_list(frames[own[0] :])).rstrip()
        raise UserError(text) from None


def run_file(file: Path, function: str) -> Any:
    """Returns the module that a file of the user is, run and not imported.

    Raises:
      UserError: it cannot be parsed, it raises, or it has no `function`; see `errors_of`.
    """
    spec = importlib.util.spec_from_file_location(f"file_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with errors_of(file):
        spec.loader.exec_module(module)
    check(callable(getattr(module, function, None)), f"{file} has no function {function}{near(function, vars(module))}")
    return module


def load(path: str, *, field: str) -> Any:
    """Returns the object that an import path names; modules in the current folder are found as well.

    Args:
      field: that holds the path, for messages.

    Raises:
      UserError: there is no such module or attribute, with the near match, or its import fails.
    """
    module, attribute = path.split(":")
    if os.getcwd() not in sys.path:  # a console script has its own folder there
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise UserError(f"{field} is {path!r}, but {module} needs {error.name!r}, which is not installed") from None
        raise UserError(
            f"{field} is {path!r}, but there is no module {error.name!r}: install it, or run the command where it is"
        ) from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        raise UserError(
            f"{field} is {path!r}, but {module} cannot be imported: {where}{type(error).__name__}: {error}"
        ) from None
    check(
        hasattr(found, attribute),
        f"{field} is {path!r}, but {module} has no {attribute!r}{near(attribute, vars(found))}",
    )
    return getattr(found, attribute)


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], *, field: str, first: int) -> None:
    """Raises UserError for arguments by name that a function does not take, or lacks.

    Args:
      field: that holds the arguments, for messages. first: how many arguments it gets by position.
    """
    parameters = list(inspect.signature(function).parameters.values())
    named = {p.name: p for p in parameters[first:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in given:
            check(name in named, f"{field} has {name!r}, but its arguments are {', '.join(named)}{near(name, named)}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in given]
    check(not missing, f"{field} lacks {', '.join(missing)}")
