"""Pictures of an experiment's report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.display.plots import save, subplots
from cnn_jax.sweeping.arm_results import ArmResult
from cnn_jax.sweeping.intervals import mean
from cnn_jax.sweeping.question import Experiment, name_in_group, without


def draw(experiment: Experiment, results: Sequence[ArmResult], folder: Path) -> list[tuple[Path, str]]:
    """Draws what the experiment asks for, and returns (path, caption) of each picture."""
    drawers = {
        "curves": draw_curves,
        "cost": draw_cost,
        "layers": draw_layers,
        "trend": draw_trend,
        "timeline": draw_timeline,
    }
    return [drawers[name](experiment, results, folder / f"{name}.png") for name in experiment.figures]


def facets(experiment: Experiment, results: Sequence[ArmResult], **options: Any) -> Any:
    """Returns (figure, [(axis, what its arms have in common, [(label, color, result), ...]), ...])."""
    field = experiment.compare[0]
    groups = experiment.groups(field)
    columns = 2 if len(groups) == 4 else min(3, len(groups))
    rows = -(-len(groups) // columns)
    size = (4.2 * columns + 0.8, 3.4 * rows + 0.4)
    figure, axes = subplots(rows, columns, squeeze=False, figsize=size, layout="constrained", **options)
    by_name = {result.arm.name: result for result in results}
    found = []
    for axis, group in zip(axes.flat, groups, strict=False):
        members = [(name_in_group(arm, field), f"C{i}", by_name[arm.name]) for i, arm in enumerate(group)]
        axis.set_title(without(group[0], field), fontsize=10)
        axis.grid(alpha=0.3)
        found.append((axis, members))
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    return figure, found


def band(axis: Any, series: Sequence[tuple[np.ndarray, np.ndarray]], *, log: bool = False, **style: Any) -> None:
    """Draws the mean over seeds with a band of one standard deviation; with `log`, both are of the logarithms.

    Args:
      series: (x, y) of each seed.
    """
    length = min((len(x) for x, _ in series), default=0)
    if not length:
        return
    x, values = series[0][0][:length], np.array([y[:length] for _, y in series])
    # Squares of smaller values underflow in float32: such norms are recorded as 0.
    values = np.log(np.maximum(values, np.sqrt(np.finfo(np.float32).tiny))) if log else values
    center, deviation = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(length)
    low, middle, high = (np.exp(y) if log else y for y in (center - deviation, center, center + deviation))
    (line,) = axis.plot(x, middle, **style)
    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, lw=0)


def column(records: Sequence[dict[str, Any]], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (epochs, values) of the records of a kind."""
    chosen = [record for record in records if record["kind"] == kind]
    return np.array([r["epoch"] for r in chosen]), np.array([float(r[name]) for r in chosen])


def draw_curves(experiment: Experiment, results: Sequence[ArmResult], path: Path) -> tuple[Path, str]:
    """Draws the error over epochs."""
    figure, found = facets(experiment, results, sharey=True)
    for axis, members in found:
        for label, color, result in members:
            styles: dict[str, dict[str, Any]] = {"train": dict(ls="--", lw=1), "validation": dict(lw=1.8, label=label)}
            for kind, style in styles.items():
                series = [column(records, kind, "error") for records in result.curves.values()]
                band(axis, [(x, 100 * y) for x, y in series], color=color, **style)
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        if axis.lines:
            axis.legend(fontsize=8)
    for axis, _ in found:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("error, %")
    caption = "Error over epochs: validation (solid) and training (dashed), mean over seeds ± one standard deviation"
    return save(figure, path), caption


def draw_cost(experiment: Experiment, results: Sequence[ArmResult], path: Path) -> tuple[Path, str]:
    """Draws the test error against parameters, MACs and time."""
    figure, axes = subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    by_name = {result.arm.name: result for result in results}
    for i, group in enumerate(experiment.groups(experiment.compare[0])):
        for j, arm in enumerate(group):
            style = dict(fmt="os^Dvp*"[j % 7], color=f"C{i}", label=arm.name)
            _draw_point(axes, _costs(by_name[arm.name]), by_name[arm.name], style)
    _name_costs(axes)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return save(figure, path), "Test error against what it costs: mean over seeds and its 95% interval"


def draw_timeline(experiment: Experiment, results: Sequence[ArmResult], path: Path) -> tuple[Path, str]:
    """Draws the test error against the year of publication and the costs: a color for each network."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = subplots(1, 4, figsize=(14, 4.4), sharey=True, layout="constrained")
    recipes = list(dict.fromkeys(result.arm.recipe for result in results))
    names = list(dict.fromkeys(result.arm.without_recipe for result in results))
    for result in results:
        color, marker = f"C{names.index(result.arm.without_recipe)}", "os^D"[recipes.index(result.arm.recipe) % 4]
        style = dict(fmt=marker, color=color, label=result.arm.name)
        _draw_point(axes, (result.arm.year, *_costs(result)), result, style)
    axes[0].set_xlabel("year")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].grid(alpha=0.3)
    _name_costs(axes[1:])
    axes[1].set_ylabel("")
    axes[0].set_ylabel("test error, %")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    caption = "Test error against the year of publication and what it costs: mean over seeds and its 95% interval"
    return save(figure, path), caption


def _costs(result: ArmResult) -> tuple[float | None, ...]:
    """Returns (parameters, MACs, seconds of training) of an arm; None where no run recorded it."""
    seconds = list(result.training_seconds.values())
    return result.planned.parameters, result.planned.macs, mean(seconds).mean if seconds else None


def _draw_point(axes: Any, places: Sequence[float | None], result: ArmResult, style: dict[str, Any]) -> None:
    """Draws the mean test error of an arm with its interval on each axis, at its place there."""
    if not result.runs:
        return
    error = mean(list(result.test_errors.values()))
    half = [[error.mean - error.low], [error.high - error.mean]] if error.count > 1 else None
    for axis, x in zip(axes, places, strict=True):
        if x is not None:
            own = style if axis is axes[0] else style | {"label": None}
            axis.errorbar(x, error.mean, half, capsize=3, **own)


def _name_costs(axes: Any) -> None:
    """Names the axes of parameters, MACs and time."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for axis, name in zip(axes, ("parameters", "MACs of one image", "training without compilation, s"), strict=True):
        axis.set_xlabel(name)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test error, %")
    axes[0].set_ylim(bottom=0)


def draw_trend(experiment: Experiment, results: Sequence[ArmResult], path: Path) -> tuple[Path, str]:
    """Draws the test error over the values of the field `trend`, a line for arms that are equal in all other fields."""
    figure, axis = subplots(1, figsize=(6.4, 4.2), layout="constrained")
    lines: dict[str, list[tuple[float, Any]]] = {}
    for result in results:
        changes = result.arm.changes
        rest = repr((result.arm.config, {name: value for name, value in changes.items() if name != experiment.trend}))
        if result.runs:
            lines.setdefault(rest, []).append((float(changes[experiment.trend]), result))
    for points in lines.values():
        points.sort(key=lambda point: point[0])
        errors = [mean(list(result.test_errors.values())) for _, result in points]
        x, y = [number for number, _ in points], [error.mean for error in errors]
        bars = [
            [error.mean - error.low if error.count > 1 else 0 for error in errors],
            [error.high - error.mean if error.count > 1 else 0 for error in errors],
        ]
        label = points[0][1].arm.name.split(", ", 1)[-1]
        axis.errorbar(x, y, bars, marker="o", ms=4, capsize=3, label=label)
    axis.set_xscale("log")
    axis.set_xlabel(experiment.trend.split(".")[-1].replace("_", " "))
    axis.set_ylabel("test error, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if lines:
        axis.legend(fontsize=8)
    name = experiment.trend.split(".")[-1].replace("_", " ")
    return save(figure, path), f"Test error over {name}: mean over seeds and its 95% interval"


def draw_layers(experiment: Experiment, results: Sequence[ArmResult], path: Path) -> tuple[Path, str]:
    """Draws the deviation of the responses and the norm of the gradient of each layer."""
    field = experiment.compare[0]
    groups = experiment.groups(field)
    figure, axes = subplots(
        2, len(groups), squeeze=False, figsize=(4.5 * len(groups) + 0.5, 6.4), sharey="row", layout="constrained"
    )
    by_name = {result.arm.name: result for result in results}
    for (above, below), group in zip(axes.T, groups, strict=True):
        for i, arm in enumerate(group):
            label = name_in_group(arm, field)
            styles: dict[str, dict[str, Any]] = {"first": dict(ls=":", lw=1.2), "last": dict(lw=1.8, label=label)}
            for when, style in styles.items():
                for axis, series in ((above, responses), (below, gradients)):
                    found = [series(layers[when]) for layers in by_name[arm.name].layers.values() if when in layers]
                    band(axis, [(np.arange(1, len(y) + 1), y) for y in found], log=True, color=f"C{i}", **style)
        above.set_title(without(group[0], field), fontsize=10)
        below.set_xlabel("layer")
        for axis in (above, below):
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        if above.lines:
            above.legend(fontsize=8)
    axes[0, 0].set_ylabel("deviation of the responses")
    axes[1, 0].set_ylabel("norm of the kernel's gradient")
    caption = (
        "Layer by layer, on the first training batch, before the first step (dotted) and after the last (solid): "
        "deviation of what each normalization puts out, and norm of the gradient of each convolution's kernel, "
        "geometric means over seeds and their deviations"
    )
    return save(figure, path), caption


def responses(layers: dict[str, Any]) -> np.ndarray:
    """Returns the deviations of the outputs of the normalizations, or of the convolutions where there are none."""
    for kind in ("norm", "conv"):
        chosen = [row for row in layers["layers"] if row["kind"] == kind and "shortcut" not in row["name"]]
        if chosen:
            break
    return np.array([float(row["deviation"]) for row in chosen])


def gradients(layers: dict[str, Any]) -> np.ndarray:
    """Returns the norms of the gradients of the convolutions' kernels, in the order of the layers."""
    norms = {row["name"]: float(row["gradient_norm"]) for row in layers["parameters"]}
    names = [f"{row['name']}/kernel" for row in layers["layers"] if row["kind"] == "conv"]
    return np.array([norms[name] for name in names if "shortcut" not in name])
