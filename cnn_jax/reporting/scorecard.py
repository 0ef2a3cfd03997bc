"""Published results and ours, side by side."""

import statistics
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from cnn_jax.reporting import published
from cnn_jax.reporting.runs import Group

# Fields of config.model that make no other network of it: published numbers of the same name stand next to it.
SAME_NETWORK = ("auxiliary", "dropout", "init", "initial_bias", "norm_decay", "stochastic_depth", "zero_gamma")
Row = dict[str, Any]  # heading -> value, or list of values


def scorecard(groups: Sequence[Group]) -> list[Row]:
    """Returns lines of published results and ours, side by side where network, data set and view are the same.

    Errors in %; ours are medians over seeds. Missing numbers are None.
    """
    cells: dict[tuple[str, str, str, str], dict[str, list[Row]]] = {}

    def place(key: tuple[str, str, str, str], by: str, row: Row) -> None:
        of = cells.setdefault(key, {"paper": [], "torchvision": [], "ours": []})
        of[by].append({f"{by}: {name}": value for name, value in row.items()})

    for result in published.RESULTS:
        key = (result.network, _label(result.fields), result.dataset, result.view)
        errors = {"top-1 error, %": result.top1, "top-5 error, %": result.top5}
        place(key, result.by, errors | {"evaluation": result.evaluation, "source": result.source})
    for one in groups:
        run = one.first
        fields = "not recorded"
        if run.record:
            changed = {name: v for name, v in run.record["changed"].items() if name not in SAME_NETWORK}
            fields = _label(without_equal_variant(run.network, changed))
        key = (run.network, fields, run.config["data.name"], run.view)
        row = {
            "top-1 error, %": statistics.median(one.each(lambda run: 100 - run.accuracy)),
            "top-5 error, %": statistics.median(one.each(lambda run: 100 - run.top5_accuracy)),
            "seeds": len(one.runs),
            "settings": one.settings,
            "evaluation": run.evaluation,
        }
        place(key, "ours", row)
    names = {by: next(iter(of[by][0] for of in cells.values() if of[by])) for by in ("paper", "torchvision", "ours")}
    order = list(dict.fromkeys(network for network, *_ in cells))
    rows = []
    for key in sorted(cells, key=lambda key: order.index(key[0])):
        for found in zip_longest(*(cells[key][by] for by in names)):
            row: Row = dict(zip(("network", "fields", "data set", "view"), key, strict=True))
            for by, cell in zip(names, found, strict=True):
                row |= cell or dict.fromkeys(names[by])
            rows.append(row)
    return rows


def without_equal_variant(network: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields without a `variant` that makes no difference: blocks of two 3x3 have no 1x1 with a stride."""
    return {n: v for n, v in fields.items() if n != "variant" or network not in ("resnet18", "resnet34")}


def _label(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(fields.items()))
