"""The report of an experiment, from the files of its runs: report.md, and report.html with everything in one file."""

import base64
import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax import runs, workdir
from cnn_jax.metrics import read_jsonl
from cnn_jax.tables import Sheet, Short, render
from experiments import cost, figures
from experiments.experiment import Arm, Experiment
from experiments.intervals import Mean, mean, paired_difference
from experiments.plan import Planned, differing, read_failures


@dataclass(frozen=True)
class Result:
    """What there is of an arm."""

    planned: Planned
    runs: dict[int, runs.Finished]  # seed -> its finished run
    train_errors: dict[int, float]  # seed -> error on the training part, %
    curves: dict[int, list[dict[str, Any]]]  # seed -> records of metrics.jsonl
    layers: dict[int, dict[str, Any]]  # seed -> layers.json

    @property
    def arm(self) -> Arm:
        return self.planned.arm

    @property
    def test_errors(self) -> dict[int, float]:
        """Seed -> error on the test part, %."""
        return {seed: 100 - run.accuracy for seed, run in self.runs.items()}

    @property
    def gaps(self) -> dict[int, float]:
        """Seed -> test error - training error, points."""
        return {seed: self.test_errors[seed] - error for seed, error in self.train_errors.items()}

    @property
    def images_per_second(self) -> dict[int, float]:
        """Seed -> median of the speed of training, without compilation, validation and saves."""
        found = {}
        for seed, records in self.curves.items():
            speeds = sorted(record["images_per_second"] for record in records if record.get("images_per_second"))
            if speeds:
                found[seed] = speeds[len(speeds) // 2]
        return found


def read(planned: Sequence[Planned], folder: Path) -> list[Result]:
    """Returns what there is of the arms in the folder of a sweep: finished runs only."""
    results = []
    for one in planned:
        result = Result(one, {}, {}, {}, {})
        for path in sorted((folder / one.arm.folder).glob("seed-*/")):
            try:
                run = runs.read(path)
            except (runs.LeftOut, ValueError):
                continue
            seed = run.seed
            result.runs[seed] = run
            result.curves[seed] = read_jsonl(path / "metrics.jsonl")
            for record in result.curves[seed]:
                if record["kind"] == "train_part":
                    result.train_errors[seed] = 100 * record["error"]
            if (path / "layers.json").exists():
                result.layers[seed] = json.loads((path / "layers.json").read_text(encoding="utf-8"))
        results.append(result)
    return results


# ---------------------------------------------------------------- words


def interval(value: Mean, *, digits: int = 2) -> str:
    """Returns "1.23 (0.80 to 1.66)"."""
    if value.count == 1:
        return f"{value.mean:.{digits}f} (1 seed: no interval)"
    return f"{value.mean:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def with_deviation(values: Sequence[float]) -> str:
    """Returns "1.23 ± 0.45" of values of several seeds, or what there is."""
    if not values:
        return ""
    found = mean(values)
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.count > 1 else "")


def verdict(difference: Mean) -> str:
    """Returns what a difference of test errors says."""
    if difference.count < 2:
        return "one seed says nothing about the noise"
    if difference.is_noise:
        return "within the noise"
    return "worse" if difference.mean > 0 else "better"


def answer(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Returns a sentence for each pair of arms: the difference of the test errors, its interval and what it says."""
    by_name = {result.arm.name: result for result in results}
    field = experiment.compare.split(".")[-1]
    sentences = []
    for group in experiment.groups:
        reference, rest = by_name[group[0].name], group[1:]
        for arm in rest:
            own = by_name[arm.name]
            difference = paired_difference(reference.test_errors, own.test_errors)
            where = experiment.group_name(group)
            values = f"{field}={arm.changes[experiment.compare]} for {group[0].changes[experiment.compare]}"
            begin = f"{where}: {values}" if where else values
            if difference is None:
                sentences.append(f"{begin}: no seed of both is finished.")
            elif difference.count < 2:
                sentences.append(
                    f"{begin} changes the test error by {difference.mean:+.2f} points; {verdict(difference)}."
                )
            else:
                told = (
                    f"{begin} changes the test error by {difference.mean:+.2f} points (95% interval "
                    f"{difference.low:+.2f} to {difference.high:+.2f}, {difference.count} paired seeds)"
                )
                sentences.append(f"{told}: {verdict(difference)}.")
    return sentences


# ---------------------------------------------------------------- tables


def arms_sheet(results: Sequence[Result]) -> Sheet:
    """Returns a line for each arm."""
    headings = (
        *("arm", "parameters", "MACs", "memory, bytes", "seeds", "train error, %", "test error, %"),
        *("test - train", "images/s", "time of a run, s", "command"),
    )
    lines = []
    for result in results:
        seconds = [run.seconds for run in result.runs.values() if run.seconds is not None]
        speeds = list(result.images_per_second.values())
        lines.append(
            (
                *(result.arm.name, result.planned.parameters, Short(result.planned.macs), Short(result.planned.memory)),
                *(len(result.runs), with_deviation(list(result.train_errors.values()))),
                with_deviation(list(result.test_errors.values())),
                with_deviation(list(result.gaps.values())),
                *(round(mean(speeds).mean) if speeds else None, round(mean(seconds).mean) if seconds else None),
                f"`{result.arm.command()}`",
            )
        )
    title = "Arms: mean ± standard deviation over seeds; memory of training is an estimate"
    return Sheet(title, headings, lines)


def pairs_sheet(experiment: Experiment, results: Sequence[Result]) -> Sheet:
    """Returns a line for each pair that is compared."""
    by_name = {result.arm.name: result for result in results}
    lines = []
    for group in experiment.groups:
        reference = by_name[group[0].name]
        for arm in group[1:]:
            own = by_name[arm.name]
            cells = []
            for values in ("test_errors", "train_errors", "gaps"):
                difference = paired_difference(getattr(reference, values), getattr(own, values))
                cells.append(interval(difference) if difference else "")
            test = paired_difference(reference.test_errors, own.test_errors)
            lines.append((arm.name, group[0].name, *cells, verdict(test) if test else "not finished"))
    headings = ("arm", "beside", "test error, points", "train error, points", "test - train, points", "test error is")
    return Sheet("Paired differences: mean and 95% interval (Student's t)", headings, lines)


# ---------------------------------------------------------------- the page


def make(experiment: Experiment, planned: Sequence[Planned], folder: Path, spec: str) -> Path:
    """Writes report.md, its pictures, and report.html into `folder` and returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    results = read(planned, folder)
    finished = [run for result in results for run in result.runs.values()]
    pictures = figures.draw(experiment, results, folder) if finished else []
    costs = folder / "costs.json"
    failures = read_failures(folder)
    question, *rest = experiment.text.split("\n\n")
    starts = [start for run in finished for start in run.starts]
    facts = {
        "evaluation": [run.evaluation for run in finished],
        "data": [run.data["name"] for run in finished],
        "hardware": [f"{s['processor']}, {s['cores']} cores, {s['devices']}" for s in starts],
        "versions": [f"jax {s['versions']['jax']}, flax {s['versions']['flax']}" for s in starts],
        "commit": [re.sub(r"^(\w{10})\w+", r"\1", s["commit"] or "") for s in starts],
        "dates": [s["date"][:10] for s in starts],
    }
    parts = [
        f"# {' '.join(question.split())}",
        "## Answer",
        "\n".join(f"- {sentence}" for sentence in answer(experiment, results)),
        *(pictures and ["\n\n".join(f"![{caption}]({path.name})\n\n*{caption}.*" for path, caption in pictures)]),
        "## Numbers",
        render([pairs_sheet(experiment, results)], "markdown"),
        render([arms_sheet(results)], "markdown"),
    ]
    if costs.exists():
        parts.append(render([cost.sheet(json.loads(costs.read_text(encoding="utf-8")))], "markdown"))
    parts += ["## What was asked", "\n\n".join(rest), "## What differs between the arms"]
    parts.append("\n".join(f"- {line}" for line in differing(experiment, planned)))
    missing = [f"{r.arm.name}: no finished run" for r in results if not r.runs]
    if failures or missing:
        failed = [f"{name}: {why}" for name, why in failures.items()]
        parts += ["## What is missing", "\n".join(f"- {line}" for line in [*failed, *missing])]
    told = [f"- {name}: {'; '.join(dict.fromkeys(filter(None, values)))}" for name, values in facts.items() if values]
    parts += ["## How it was made", f"`python -m experiments.sweep {spec}`", "\n".join(told)]
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    workdir.write_text(folder / "report.md", text)
    workdir.write_text(folder / "report.html", page(text, folder))
    return folder / "report.html"


STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 70rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.table, .wide { overflow-x: auto; }
img { display: block; width: 100%; min-width: 40rem; height: auto; margin: 1rem auto 0; }
em { font-size: .9rem; color: #444; } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1.5rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media print { body { max-width: none; font-size: 10pt; } .table { overflow: visible; } table { font-size: 7pt; }
  th, td { white-space: normal; padding: .1rem .3rem; } img { min-width: 0; }
  img, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(markdown: str, folder: Path) -> str:
    """Returns a report in Markdown as one HTML page, with the pictures of `folder` inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r"<p>(<img [^>]*>)</p>", r'<div class="wide">\1</div>', body)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")

    def embed(match: re.Match) -> str:
        data = base64.b64encode((folder / html.unescape(match.group(1))).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^":]+\.png)"', embed, body)
    title = html.escape(markdown.splitlines()[0].removeprefix("# "))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def measure_cost(spec: str, folder: Path, say: Callable[[str], None]) -> None:
    """Measures the parts of an experiment in a process of its own and keeps the numbers in costs.json of `folder`."""
    path = folder / "costs.json"
    if path.exists():
        return
    say("measuring the cost of the parts")
    line = [sys.executable, "-m", "experiments.cost", spec, "--format=json"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    if result.returncode:
        say(f"the cost of the parts could not be measured: {result.stderr.strip().splitlines()[-1:]}")
        return
    workdir.write_text(path, result.stdout)
