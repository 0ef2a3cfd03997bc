"""What an experiment is: a question, the arms that answer it, and what to compare.

An experiment is a Python file whose docstring begins with the question, and continues with the hypothesis, its source
and what the task can show. Its `get_experiment(dataset, full)` returns an `Experiment`. Ours are in experiments/ of a
clone; an installed package carries copies.
"""

import itertools
import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check, near

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "questions", PACKAGE.parent / "experiments")  # in a wheel, in a clone
EQUAL = ("parameters", "macs")  # what an experiment can require to be equal
FIGURES = ("curves", "cost", "layers", "trend", "timeline")
ARM = "arm"  # what `compare` names where arms are compared that differ in many fields


@dataclass(frozen=True)
class Arm:
    """One configuration of an experiment, for any seed."""

    name: str
    config: str  # FILE:DATASET, as --config takes it
    changes: Mapping[str, Any]  # dotted field -> value
    recipe: str = ""  # the name of the recipe of the experiment that it is trained with
    year: int = 0  # of its publication, for the figure "timeline"
    found: Mapping[str, Any] = field(default_factory=dict)  # dotted field -> value that a search found best for it

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return re.sub(r"[^\w.=,+-]+", "_", self.name)

    @property
    def words(self) -> list[str]:
        """FIELD=VALUE of every change."""
        return [f"{field}={value}" for field, value in {**self.changes, **self.found}.items()]

    @property
    def without_recipe(self) -> str:
        """Its name without its recipe."""
        return self.name.removesuffix(f", {self.recipe}")

    def arguments(self, seed: int | str) -> list[str]:
        """Returns the arguments of `cnn_jax train` that train it."""
        changes = [f"--config.{word}" for word in self.words]
        return [f"--config={self.config}", *changes, f"--config.seed={seed}"]

    def command(self, seed: int | str = "SEED") -> str:
        """Returns the command that trains it alone."""
        return shlex.join(["cnn_jax", "train", *self.arguments(seed)])


@dataclass(frozen=True)
class Part:
    """A part of a network whose cost is compared with others of its group."""

    group: str
    label: str
    make: Callable[[], Any]  # builds the module, from an array [B, *input_shape] to an array
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Experiment:
    """A question, the arms that answer it, and what to compare.

    compare: fields. For each of them, arms that are equal in all other fields make a group, and each arm is compared
    with the first one. Pictures show the groups of the first field. ("arm",) compares whole networks with their own
    configurations: all arms of a recipe make a group.
    equal: names in `EQUAL`: what the arms of a group of the first field must have in common, or a sweep refuses to run.
    seeds: their number for each arm, from 0; with the same seed, arms see the same examples in the same order.
    figures: names in `FIGURES`. trend: the field with numbers on the horizontal axis of the figure of that name.
    parts: what `cost` measures besides the runs.
    first: folder -> an arm that is trained there once, with seed 0, before the others start from it.
    search: (field, values): each arm is trained once with each of these numbers, with a seed of its own, and takes the
    one with the lowest validation error, so that no arm runs with a value that suits another. If the best one is the
    smallest or largest, the search continues beyond it.
    recipes: name -> changes. Every arm is trained with each of them, and only an answer that all recipes give counts.
    """

    arms: tuple[Arm, ...]
    compare: tuple[str, ...]
    equal: tuple[str, ...] = ()
    seeds: int = 5
    figures: tuple[str, ...] = ("curves", "cost")
    trend: str = ""
    parts: tuple[Part, ...] = ()
    first: Mapping[str, Arm] = field(default_factory=dict)
    search: tuple[str, tuple[float, ...]] | None = None
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text: str = ""  # the docstring of its file
    name: str = ""  # of its file, with the data set and "full"

    @property
    def question(self) -> str:
        return self.text.strip().split("\n\n")[0].replace("\n", " ")

    def groups(self, field: str) -> list[list[Arm]]:
        """Returns lists of arms that differ in `field` only; the first of each is what the others are compared with."""
        found: dict[str, list[Arm]] = {}
        for arm in self.arms:
            rest = {name: value for name, value in arm.changes.items() if name != field}
            found.setdefault(arm.recipe if field == ARM else repr((arm.config, rest)), []).append(arm)
        return list(found.values())

    def pairs(self) -> list[tuple[str, Arm, Arm]]:
        """Returns (field, reference, arm) of everything that is compared."""
        return [(field, group[0], arm) for field in self.compare for group in self.groups(field) for arm in group[1:]]


def word(field: str, value: Any) -> str:
    """Returns a value as it appears in an arm's name: depth=20."""
    return f"{field.split('.')[-1]}={value}".replace(" ", "")


def name_in_group(arm: Arm, field: str) -> str:
    """Returns what distinguishes an arm from the others of its group: depth=20, or the name of the arm."""
    return arm.without_recipe if field == ARM else word(field, arm.changes[field])


def without(arm: Arm, field: str) -> str:
    """Returns the name of an arm without a field: what it has in common with its group."""
    if field == ARM:
        return arm.recipe
    own = word(field, arm.changes[field])
    words = " ".join(part for part in arm.without_recipe.split(" ") if part != own)
    return ", ".join(filter(None, (words, arm.recipe)))


def with_recipes(experiment: Experiment) -> list[Arm]:
    """Returns every arm of an experiment with every recipe."""
    if not experiment.recipes:
        return list(experiment.arms)
    return [
        replace(arm, name=f"{arm.name}, {name}", changes={**arm.changes, **changes}, recipe=name)
        for name, changes in experiment.recipes.items()
        for arm in experiment.arms
    ]


def two_recipes(epochs: int) -> dict[str, dict[str, Any]]:
    """Returns two reasonable recipes for this many epochs: they differ in schedule, batch and weight decay."""
    duration = f"{epochs} epochs"
    boundaries = tuple(f"{round(share * epochs)} epochs" for share in (0.5, 0.75))
    schedule = {"optim.schedule.name": "steps", "optim.schedule.boundaries": boundaries}
    return {
        "cosine": {"duration": duration, "optim.schedule.name": "cosine"},
        "steps": {"duration": duration, **schedule, "batch_size": 32, "optim.weight_decay": 5e-4},
    }


def grid(
    config: str, fields: Mapping[str, Sequence[Any]], *, fixed: Mapping[str, Any] | None = None, label: str = ""
) -> list[Arm]:
    """Returns an arm for each combination of values of `fields`, which name it; all arms have the values `fixed`."""
    arms = []
    for values in itertools.product(*fields.values()):
        changes = dict(zip(fields, values, strict=True))
        words = [word(field, value) for field, value in changes.items()]
        arms.append(Arm(" ".join([*([label] if label else []), *words]), config, changes | dict(fixed or {})))
    return arms


def load(spec: str) -> Experiment:
    """Returns the experiment of "NAME[:DATASET][:full]" or "FILE[:DATASET][:full]".

    Raises:
      UserError: no such experiment, no such data set, or its arms collide.
    """
    file, *words = spec.split(":")
    path = Path(file)
    if "/" not in file and path.suffix != ".py":
        names = [other.stem for other in experiments()]
        check(file in names, f"there is no experiment {file!r}{near(file, names)} (--list shows all)")
        path = folder() / f"{file}.py"
    elif path.suffix != ".py" or not path.is_file():
        known = [str(other) for other in experiments(path.parent)]
        raise UserError(f"there is no experiment {file!r}{near(file, known)} (--list shows ours)")
    module = imports.run_file(path, "get_experiment")
    full = "full" in words
    datasets = [word for word in words if word != "full"]
    check(len(datasets) <= 1, f"{spec!r} names more than one data set: {', '.join(datasets)}")
    with imports.errors_of(path):
        found = module.get_experiment(*datasets, full=full)
    check(isinstance(found, Experiment), f"{file}: get_experiment(dataset, full) must return an Experiment")
    found = replace(
        found,
        arms=tuple(with_recipes(found)),
        text=(module.__doc__ or "").strip(),
        name="-".join([path.stem, *datasets, *(["full"] if full else [])]),
    )
    folders = [arm.folder for arm in found.arms]
    for arm in found.arms:
        check(folders.count(arm.folder) == 1, f"{file}: two arms are called {arm.name!r}: give each a name of its own")
    fields = found.compare
    check(not isinstance(fields, str), f"{file}: compare is {fields!r}, but must be a tuple of fields: ({fields!r},)")
    for name in found.compare:
        for arm in found.arms:
            check(
                name == ARM or name in arm.changes,
                f"{file} compares {name!r}, but the arm {arm.name!r} does not set it{near(name, arm.changes)}",
            )
    check(bool(found.pairs()), f"{file}: no two arms differ in one of the fields to compare alone")
    if found.search:
        values = found.search[1]
        rises = all(low < high for low, high in itertools.pairwise((0, *values)))
        check(len(values) > 1 and rises, f"{file}: search has {values}, but must be at least 2 rising numbers above 0")
    for name, known, given in (("equal", EQUAL, found.equal), ("figures", FIGURES, found.figures)):
        for value in given:
            check(value in known, f"{file}: {name} has {value!r}, but must be of {', '.join(known)}")
    return found


def folder() -> Path:
    """Returns the folder of our experiments."""
    return next((path for path in FOLDERS if path.is_dir()), FOLDERS[0])


def experiments(where: Path | None = None) -> list[Path]:
    """Returns the experiment files in a folder, by default ours."""
    return sorted(
        path
        for path in (where or folder()).glob("*.py")
        if re.search(r"^def get_experiment\(", path.read_text(encoding="utf-8"), re.M)
    )


def listing() -> str:
    """Returns the names of our experiments, each with its question."""
    found = ((path.stem, " ".join(load(path.stem).question.split())) for path in experiments())
    return "\n".join(f"{name}\n{textwrap.indent(textwrap.fill(question, 96), 4 * ' ')}" for name, question in found)
