"""What parts of networks cost: parameters, MACs, measured time and memory, forward and backward.

    cnn_jax sweep bottlenecks --cost

The compared parts run in turn, several times each, on random numbers; times are medians. Bytes are XLA's account of
what a compiled function needs besides its arguments.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from cnn_jax.display.tables import Sheet, Short, render, screen
from cnn_jax.sweeping.question import Part
from cnn_jax.tracking import run_record

ROUNDS = 9
SECONDS = 0.1  # at least, for each round of each function


def measure(parts: Sequence[Part], *, batch: int = 8) -> list[dict[str, Any]]:
    """Returns a row for each part: group, label, parameters (no biases), macs (of one image), and of a batch of images
    forward_seconds, forward_bytes, both_seconds, both_bytes ("both": forward, and backward to input and parameters).
    """
    import jax

    from cnn_jax.analysis.layer_table import layer_table, totals

    rows, functions = [], {}
    for number, part in enumerate(parts):
        sums = totals(layer_table(part.make, part.input_shape))
        weights = sums.parameters - sums.biases  # parts with and without normalization differ in their biases
        row = dict(group=part.group, label=part.label, parameters=weights, macs=sums.macs, batch=batch)
        for way, (function, arguments) in compiled(part, batch).items():
            account = function.memory_analysis()
            row[f"{way}_bytes"] = account and account.temp_size_in_bytes + account.output_size_in_bytes
            functions[number, way] = functools.partial(function, *arguments)
        rows.append(row)
    repeats, times = {}, {key: [] for key in functions}
    for key, function in functions.items():
        jax.block_until_ready(function())
        began = time.perf_counter()
        jax.block_until_ready(function())
        repeats[key] = max(1, round(SECONDS / (time.perf_counter() - began)))
    for _ in range(ROUNDS):
        for key, function in functions.items():
            began = time.perf_counter()
            for _ in range(repeats[key]):
                result = function()
            jax.block_until_ready(result)
            times[key].append((time.perf_counter() - began) / repeats[key])
    for (number, way), found in times.items():
        rows[number][f"{way}_seconds"] = statistics.median(found)
    return rows


def compiled(part: Part, batch: int) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Returns {"forward", "both"}: (compiled function, its arguments)."""
    import jax
    import numpy as np
    from flax import nnx

    graphdef, params, rest = nnx.split(nnx.view(part.make(), raise_if_not_found=False), nnx.Param, ...)
    random = np.random.default_rng(0)
    x = jax.numpy.asarray(random.normal(size=(batch, *part.input_shape)), "float32")
    weights = jax.tree.map(lambda leaf: jax.numpy.asarray(random.normal(0, 0.05, leaf.shape), "float32"), params)

    def forward(weights: Any, rest: Any, x: Any) -> Any:
        return nnx.merge(graphdef, weights, rest)(x)

    def loss(weights: Any, rest: Any, x: Any, target: Any) -> Any:
        return (forward(weights, rest, x) * target).sum()

    given = (weights, nnx.as_pure(rest), x)
    target = jax.numpy.asarray(random.normal(size=jax.eval_shape(forward, *given).shape), "float32")
    both: Callable[..., Any] = jax.value_and_grad(loss, argnums=(0, 2))
    return {
        "forward": (jax.jit(forward).lower(*given).compile(), given),
        "both": (jax.jit(both).lower(*given, target).compile(), (*given, target)),
    }


def record(parts: Sequence[Part]) -> dict[str, Any]:
    """Returns {"machine", "commit", "rows"} of a measurement."""
    return {"machine": run_record.machine(), "commit": run_record.commit(), "rows": measure(parts)}


def place(costs: dict[str, Any]) -> str:
    """Returns the machine and the versions of a record."""
    machine = costs["machine"]
    versions = f"jax {machine['versions']['jax']}, flax {machine['versions']['flax']}"
    commit = (costs["commit"] or "")[:10]
    return f"{run_record.describe(machine)}; {versions}; commit {commit}"


def fits(costs: dict[str, Any], parts: Sequence[Part]) -> bool:
    """Returns whether a record is of these parts, on this machine with these versions."""
    labels = [(row["group"], row["label"]) for row in costs["rows"]]
    return labels == [(part.group, part.label) for part in parts] and costs["machine"] == run_record.machine()


def sheet(rows: Sequence[dict[str, Any]]) -> Sheet:
    """Returns the measurements as a table; ratios are to the first part of a group."""
    headings = ("part", "form", "weights", "MACs", "forward, ms", "and backward, ms", "bytes forward", "bytes both")
    lines = []
    for row in rows:
        first = next(other for other in rows if other["group"] == row["group"])
        times = [1000 * row[f"{way}_seconds"] for way in ("forward", "both")]
        ratios = [row[f"{way}_seconds"] / first[f"{way}_seconds"] for way in ("forward", "both")]
        told = [f"{ms:.2f}" + ("" if row is first else f" (x{r:.2f})") for ms, r in zip(times, ratios, strict=True)]
        sizes = [Short(row[f"{way}_bytes"]) if row[f"{way}_bytes"] else None for way in ("forward", "both")]
        lines.append((row["group"], row["label"], row["parameters"], Short(row["macs"]), *told, *sizes))
    batch = rows[0]["batch"]
    return Sheet(f"Cost of the parts: of one image, times and bytes of {batch} images", headings, lines)


def show(parts: Sequence[Part], form: str) -> None:
    """Measures parts and prints what they cost: as text, markdown or json."""
    found = record(parts)
    print(
        json.dumps(found)
        if form == "json"
        else render([sheet(found["rows"])], form, width=screen()) + "\n" + place(found)
    )
