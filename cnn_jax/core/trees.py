"""Names of the leaves of a parameter tree, and rules that pick leaves by a regular expression on the name."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cnn_jax.core.errors import UserError, near


def path_name(path: tuple) -> str:
    """Returns the name of a tree path: `conv2_x/0/conv1/kernel`."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns (name, leaf) for every leaf, in the order of `jax.tree.leaves`."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def is_repeated(name: str) -> bool:
    """Returns whether the leaf of that name holds those of equal blocks along its first axis (`nn.scan.Repeated`)."""
    return "/block/" in name


def match(tree: Any, pattern: str, *, field: str | None) -> Any:
    """Returns a tree of bools: does the whole name of the leaf match `pattern`?

    Raises:
      UserError: `pattern` is not a regular expression, or no leaf matches. `field` names the rule in the message; with
        None no leaf needs to match.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field}: {pattern!r} is not a regular expression: {error}") from None
    matches = jax.tree_util.tree_map_with_path(lambda path, _: bool(regex.fullmatch(path_name(path))), tree)
    if field is not None and not any(jax.tree.leaves(matches)):
        known = [name for name, _ in named_leaves(tree)]
        shown = ", ".join(known[:4]) + (", ..." if len(known) > 4 else "")
        raise UserError(
            f"{field}: {pattern!r} matches none of the {len(known)} parameters ({shown}){near(pattern, known)}. "
            "A rule must match whole names, at least one."
        )
    return matches


def is_inside(name: str, layers: Collection[str]) -> bool:
    """Returns whether a layer or leaf of that name is one of `layers`, or inside of one."""
    parts = name.split("/")
    return any("/".join(parts[:i]) in layers for i in range(1, len(parts) + 1))


def summarized(chosen: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns names of leaves in short: a layer stands for all of its leaves where all of them are chosen.

    Args:
      names: of all leaves, the chosen ones among them.
    """
    chosen, others = list(chosen), set(names) - set(chosen)
    taken = {"/".join(name.split("/")[:i]) for name in others for i in range(1, name.count("/") + 1)}
    short = []
    for name in chosen:
        parts = name.split("/")
        prefixes = ("/".join(parts[:i]) for i in range(1, len(parts) + 1))
        short.append(next(prefix for prefix in prefixes if prefix not in taken))
    return list(dict.fromkeys(short))


def multipliers(tree: Any, rules: Sequence[tuple[str, float]], *, field: str | None) -> Any:
    """Returns a tree of floats: for each leaf the value of the first rule `(regex, value)` that matches, else 1.

    Raises:
      UserError: a rule matches nothing; see `match`.
    """
    values = jax.tree.map(lambda _: 1.0, tree)
    for pattern, value in reversed(list(rules)):
        values = jax.tree.map(
            lambda hit, old, value=value: float(value) if hit else old, match(tree, pattern, field=field), values
        )
    return values


def partition(tree: Any, mask: Any) -> tuple[Any, Any]:
    """Returns the nested dict `tree` as two: of the leaves where `mask` is true, and of the others."""
    leaves, chosen = flatten_dict(tree), flatten_dict(mask)
    return (
        unflatten_dict({path: leaf for path, leaf in leaves.items() if chosen[path]}),
        unflatten_dict({path: leaf for path, leaf in leaves.items() if not chosen[path]}),
    )


def merged(*parts: Any) -> Any:
    """Returns nested dicts as one, the inverse of `partition`; of leaves of one path the last counts."""
    return unflatten_dict({path: leaf for tree in parts for path, leaf in flatten_dict(tree).items()})


def part_like(tree: Any, like: Any) -> Any:
    """Returns those leaves of a nested dict whose paths `like` has."""
    leaves = flatten_dict(tree)
    return unflatten_dict({path: leaves[path] for path in flatten_dict(like)})


def count(tree: Any) -> int:
    """Returns the number of elements of all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
