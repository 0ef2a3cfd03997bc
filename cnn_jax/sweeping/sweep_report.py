"""The report of an experiment, from the files of its runs: report.md, and report.html with everything in one file."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn_jax.core.errors import check
from cnn_jax.core.files import read_json, write_text
from cnn_jax.core.text import markdown
from cnn_jax.display.page import page
from cnn_jax.display.tables import Code, Sheet, Short, render
from cnn_jax.sweeping import cost, figures, search
from cnn_jax.sweeping.answers import Comparison, answer, compare, told_difference
from cnn_jax.sweeping.arm_results import ArmResult, missing, read
from cnn_jax.sweeping.intervals import mean
from cnn_jax.sweeping.learning import REST, judge
from cnn_jax.sweeping.plan import Planned, differing, seeds_in, tasks
from cnn_jax.sweeping.question import Experiment
from cnn_jax.tracking import run_record

# ---------------------------------------------------------------- words


def with_deviation(values: Sequence[float]) -> str:
    """Returns "1.23 ± 0.45" for values of several seeds, the value for one seed, or ""."""
    if not values:
        return ""
    found = mean(values)
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.count > 1 else "")


# ---------------------------------------------------------------- tables


def arms_sheet(results: Sequence[ArmResult]) -> Sheet:
    """Returns a line for each arm."""
    headings = (
        *("arm", "parameters", "MACs", "memory, bytes", "seeds", "train error, %", "test error, %"),
        *("test - train", "images/s", "training, s", "command"),
    )
    lines = []
    for result in results:
        speeds, seconds = list(result.images_per_second.values()), list(result.training_seconds.values())
        lines.append(
            (
                *(result.arm.name, result.planned.parameters, Short(result.planned.macs), Short(result.planned.memory)),
                *(len(result.runs), with_deviation(list(result.train_errors.values()))),
                with_deviation(list(result.test_errors.values())),
                with_deviation(list(result.gaps.values())),
                *(round(mean(speeds).mean) if speeds else None, round(mean(seconds).mean, 1) if seconds else None),
                Code(result.arm.command()),
            )
        )
    title = "Arms: mean ± standard deviation over seeds; memory is an estimate, time is without compilation"
    return Sheet(title, headings, lines)


def pairs_sheet(comparisons: Sequence[Comparison]) -> Sheet:
    """Returns a line for each pair that is compared."""
    lines = [
        (
            *(one.arm.name, one.reference.name),
            *(told_difference(difference) if difference else "" for difference in (one.test, one.train, one.gap)),
            one.verdict,
        )
        for one in comparisons
    ]
    headings = ("arm", "compared with", "test error", "train error", "test - train", "test error is")
    return Sheet("Paired differences: mean and 95% interval (Student's t)", headings, lines)


def learning_sheet(results: Sequence[ArmResult]) -> Sheet:
    """Returns a line for each arm: whether it was done learning."""
    lines = []
    for result in results:
        state = judge(result)
        if state is None:
            told = "diverged" if result.diverged else "not known: too few training records (log.every)"
            lines.append((result.arm.name, None, None, None, told))
        else:
            told = "yes" if state.is_done else "learned little" if state.learned_little else "no"
            lines.append((result.arm.name, f"{state.epochs:.3g}", f"{state.error:.1f}", f"{state.fall:+.2f}", told))
    headings = (
        "arm",
        "epochs",
        "training error at the end, %",
        "its fall over the last fifth, points",
        "done learning",
    )
    title = (
        f"Whether the arms were done learning: the training error falls by at most {REST:g} point over the last fifth, "
        "and is below half of that of guessing (as trained, with dropout and augmentation)"
    )
    return Sheet(title, headings, lines)


# ---------------------------------------------------------------- the page


def make(experiment: Experiment, planned: Sequence[Planned], folder: Path, *, seeds: int, command: str) -> Path:
    """Writes report.md, its pictures, answers.json and report.html into `folder` and returns the path of the page.

    Args:
      seeds: how many each arm should have. Others in the folder count as well.
      command: that made it.
    """
    searches = search.search(experiment, planned, folder)
    if experiment.search:
        planned = search.with_best(planned, searches, experiment.search[0])
    every = tasks(planned, sorted({*range(seeds), *seeds_in(folder)}), folder)
    results = read(planned, folder, {task.seed for task in every})
    finished = [run for result in results for run in result.runs.values()]
    pictures = figures.draw(experiment, results, folder) if finished else []
    question, *rest = experiment.text.split("\n\n")
    starts = [start for run in finished for start in run.starts]
    facts = {
        "evaluation": [run.evaluation for run in finished],
        "data": [run.data["name"] for run in finished],
        "hardware": [run_record.describe(start) for start in starts],
        "versions": [f"jax {s['versions']['jax']}, flax {s['versions']['flax']}" for s in starts],
        "commit": [re.sub(r"^(\w{10})\w+", r"\1", s["commit"] or "") for s in starts],
        "dates": [s["date"][:10] for s in starts],
    }
    distinct = {name: list(dict.fromkeys(filter(None, values))) for name, values in facts.items()}
    comparisons = compare(experiment, results)
    sentences = answer(comparisons, seeds)
    parts = [
        f"# {' '.join(question.split())}",
        "## Answer",
        "\n".join(f"- {sentence}" for sentence in sentences),
        "Intervals are of 95% (Student's t) over paired seeds: they cover initial weights, order of the examples and "
        "augmentation, not the choice of the test examples"
        + (f", and each of {len(comparisons)} pairs by itself." if len(comparisons) > 1 else ".")
        + ("" if experiment.recipes else " All arms share one recipe: with another, the answer may differ."),
        *("\n\n".join(f"![{caption}]({path.name})\n\n*{caption}.*" for path, caption in pictures),),
        "## Numbers",
        render([pairs_sheet(comparisons)], "markdown"),
        render([learning_sheet(results)], "markdown"),
        *([render([search.sheet(experiment.search[0], searches)], "markdown")] if experiment.search else []),
        render([arms_sheet(results)], "markdown"),
    ]
    lacking = missing([task for task in every if task.seed < seeds])
    lacking += missing([task for found in searches for task in (*found.pending, *found.failed)])
    if experiment.parts:
        path = folder / "costs.json"
        if path.exists():
            costs = read_json(path)
            parts += [render([cost.sheet(costs["rows"])], "markdown"), f"Measured on {cost.place(costs)}."]
        else:
            lacking.append("the cost of the parts: the sweep measures it if it runs without --launcher")
    parts += ["## What was asked", "\n\n".join(rest), render([differing(experiment, planned)], "markdown")]
    if lacking:
        parts += ["## What is missing", "\n".join(f"- {line}" for line in lacking)]
    parts += ["## How it was made", f"`{command}`"]
    parts.append("\n".join(f"- {name}: {markdown('; '.join(values))}" for name, values in distinct.items() if values))
    mixed = [name for name in ("hardware", "versions", "commit") if len(distinct[name]) > 1]
    if mixed:
        parts.append(f"**Runs differ in {', '.join(mixed)}: differences may not come from the arms alone.**")
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    write_text(folder / "report.md", text)
    facts = {"question": " ".join(question.split()), "answers": sentences, "command": command, **distinct}
    write_text(folder / "answers.json", json.dumps(facts, indent=1) + "\n")
    write_text(folder / "report.html", page(text, [path for path, _ in pictures]))
    return folder / "report.html"


def measure_cost(experiment: Experiment, spec: str, folder: Path, say: Callable[[str], None]) -> None:
    """Measures the parts of an experiment in a process of its own and keeps the numbers in costs.json of `folder`.

    Nothing is measured again if the parts, the machine and the versions are the same.

    Raises:
      UserError: it fails.
    """
    path = folder / "costs.json"
    if path.exists() and cost.fits(read_json(path), experiment.parts):
        return
    say("measuring the cost of the parts")
    line = [sys.executable, "-m", "cnn_jax.sweep", spec, "--cost", "--format=json"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    words = result.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
    check(result.returncode == 0, f"the cost of the parts could not be measured: {words[0]}")
    write_text(path, result.stdout)
