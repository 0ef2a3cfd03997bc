"""A configuration from a recipe or from a recorded run, with the changes of a command line."""

import ast
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from absl.flags import Error, FlagValues
from ml_collections import ConfigDict, config_flags

from cnn_jax.config import recipes, recorded
from cnn_jax.config.compare import flat
from cnn_jax.config.fields import FIELDS, OPEN
from cnn_jax.core.errors import UserError, check, near


@dataclass(frozen=True)
class Configuration:
    """A locked configuration, and FIELD=VALUE of every change to what it was made from."""

    config: Any  # ConfigDict
    overrides: tuple[str, ...] = ()

    @classmethod
    def from_recipe(cls, recipe: str, overrides: Sequence[str] = (), *, flag: str = "--config") -> "Configuration":
        """Returns that of "RECIPE[:DATASET]", a recipe's name or file.

        Raises:
          UserError: no such recipe, data set or field, or a value of another type. `flag` names the flag in messages.
        """
        name, colon, argument = recipe.partition(":")
        try:
            config = recipes.load(name, argument if colon else None)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from None
        return cls(config).with_overrides(overrides, flag=flag)

    @classmethod
    def from_run(cls, run: str, overrides: Sequence[str] = (), *, flag: str = "--from") -> "Configuration":
        """Returns that of the run in a folder, or in its config.json; raises UserError as `from_recipe` does."""
        try:
            config = recorded.read(run)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from None
        return cls(config).with_overrides(overrides)

    def with_overrides(self, overrides: Sequence[str], *, flag: str = "--config") -> "Configuration":
        """Returns a copy with FIELD=VALUE changes, whose values are read as those of --config.FIELD=VALUE.

        Raises:
          UserError: no such field, or a value of another type; the message begins with `flag`.
        """
        values = FlagValues()
        # The last of those that name a field twice: ml_collections would join tuples.
        last = {name: value for name, _, value in (override.partition("=") for override in overrides)}
        copy = self.config.copy_and_resolve_references().lock()
        for name, value in last.items():
            check_field(copy, name, value, flag=flag)
        options = {name: last.pop(name) for name in list(last) if open_field(name) is not None}
        for name, value in options.items():
            _set_option(copy, name, value, flag=flag)
        argv = ["", *(f"--config.{name}={value}" for name, value in last.items())]
        try:
            config_flags.DEFINE_config_dict("config", copy, flag_values=values, sys_argv=argv)
            values(argv)
        except (Error, KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{flag}: {recorded.explain(error)}") from None
        return Configuration(values["config"].value, (*self.overrides, *overrides))

    def other(self, text: str, *, flag: str) -> "Configuration":
        """Returns that of "[RECIPE[:DATASET]] [FIELD=VALUE ...]"; without a recipe, this one with changes.

        Raises:
          UserError: as `from_recipe`.
        """
        try:
            words = [word.removeprefix("--config.") for word in shlex.split(text)]
        except ValueError as error:
            raise UserError(f"{flag}={text!r}: {error}") from None  # a quote that does not end
        recipe = words.pop(0) if words and "=" not in words[0] else None
        for word in words if recipe or words else [text]:
            check("=" in word, f"{flag}={text!r}: {word!r} is no FIELD=VALUE, such as model.head=gap")
        if recipe:
            return Configuration.from_recipe(recipe, words, flag=flag)
        return self.with_overrides(words, flag=f"{flag}={text!r}")

    @property
    def overridden(self) -> set[str]:
        """The names of the fields that were changed."""
        return {override.partition("=")[0] for override in self.overrides}

    def text(self) -> str:
        """Returns every field and its value, a line for each."""
        found = values(self.config)
        width = max(map(len, found))
        return "\n".join(f"{name:{width}} = {value!r}" for name, value in found.items())


def open_field(name: str) -> str | None:
    """Returns the field that holds arguments of any name, if `name` is it or one of its arguments, else None."""
    return next((field for field in OPEN if name == field or name.startswith(f"{field}.")), None)


def _set_option(config: Any, name: str, text: str, *, flag: str) -> None:
    """Sets a field that holds arguments of any name to a dict, or one of its arguments to a value.

    The text is Python's, such as {'b2': 0.95} or 0.95; an argument of anything else is a word.

    Raises:
      UserError: the text for the whole field is not a dict with words for keys.
    """
    field = open_field(name)
    assert field is not None
    value: Any
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    section, _, leaf = name.rpartition(".")
    if name == field:
        is_dict = isinstance(value, dict) and all(isinstance(key, str) and key.isidentifier() for key in value)
        check(is_dict, f"{flag}: {name} is {text!r}, but must be a dict of arguments, such as \"{{'b2': 0.95}}\"")
        value = ConfigDict(value)
    else:
        check(section == field, f"{flag}: {name!r} is not an argument of {field}: name it {field}.{leaf}")
    place = config
    for part in filter(None, section.split(".")):
        place = place[part]
    with place.unlocked(), place.ignore_type():
        place[leaf] = value


ALIASES = {
    **{"epochs": "duration", "num_epochs": "duration", "steps": "duration", "max_steps": "duration"},
    **{"lr": "optim.learning_rate", "wd": "optim.weight_decay", "batch": "batch_size", "dataset": "data.name"},
    **{"optim.lr": "optim.learning_rate", "workers": "data.workers", "num_workers": "data.workers"},
}


def check_field(config: Any, name: str, value: str, *, flag: str) -> None:
    """Raises UserError unless a configuration has a field; the message has the near match, or a section's fields."""
    place = config
    for part in name.split("."):
        if not isinstance(place, ConfigDict) or part not in place:
            break
        place = place[part]
    else:
        if isinstance(place, ConfigDict) and open_field(name) is None:
            inner = list(place)
            first = "name" if "name" in inner else inner[0] if inner else "FIELD"
            raise UserError(
                f"{flag}: {name!r} is a section, not a field: give {flag}.{name}.{first}={value}, or another of "
                f"{', '.join(inner)}"
            )
        return
    if open_field(name) is not None:
        return  # an option of the user's own
    known = list(values(config))
    last = name.rpartition(".")[2]
    same = [field for field in known if field.rpartition(".")[2] == last]
    found = ALIASES.get(name) or (same[0] if same else "")
    hint = f"; did you mean {found!r}?" if found else near(name, known)
    raise UserError(f"{flag}: the configuration has no field {name!r}{hint}")


def values(config: Any) -> dict[str, Any]:
    """Returns the values of all fields by their dotted names, the network's first, then in the order of `FIELDS`."""
    places = {name: place for place, name in enumerate(FIELDS)}

    def place(name: str) -> int:
        while name and name not in places:  # an option is with the field that holds it
            name = name.rpartition(".")[0]
        return places.get(name, -1)

    found = flat(config.to_dict())
    return {name: found[name] for name in sorted(found, key=place)}
