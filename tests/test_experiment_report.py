import json
import re
from pathlib import Path

import pytest
from run_folders import START, make

from experiments import report
from experiments.experiment import load
from experiments.plan import Task, plan, record_failure

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = Path(__file__).parent / "small_experiment.py"
ERRORS = {"width=0.1": (0.10, 0.12, 0.11), "width=0.05": (0.15, 0.16, 0.17)}


def sweep(folder, errors, spec=str(SMALL)):
    """Makes the folder of a sweep whose arms ended with these test errors, by seed; returns (experiment, plan)."""
    experiment = load(spec)
    for name, values in errors.items():
        for seed, error in enumerate(values):
            start = START | {"date": "2026-01-02T03:04:05Z"}
            place = make(folder / name / f"seed-{seed}", error=error, changes={"seed": seed}, starts=(start,))
            records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            curve = [
                {"kind": kind, "step": step, "epoch": step / 20, "error": error + 1 / step, "images_per_second": 100.0}
                for step in (50, 100)
                for kind in ("train", "validation")
            ]
            own = {"kind": "train_part", "step": 200, "epoch": 10, "error": error / 2}
            (place / "metrics.jsonl").write_text(
                "".join(json.dumps(record) + "\n" for record in (*curve, *records[1:], own))
            )
    return experiment, plan(experiment)


def test_the_answer_has_the_paired_difference_and_its_interval(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    (sentence,) = report.answer(experiment, report.read(planned, tmp_path))
    # Differences of 5, 4 and 6 points: 5 +- t(0.975, 2) / sqrt(3) = 4.3027 / 1.7321.
    assert sentence == (
        "width=0.05 for 0.1 changes the test error by +5.00 points "
        "(95% interval +2.52 to +7.48, 3 paired seeds): worse."
    )


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (((0.10, 0.12), (0.11, 0.11)), "within the noise"),
        (((0.10, 0.12, 0.11), (0.05, 0.07, 0.06)), "better"),
        (((0.10,), (0.20,)), r"\+10.00 points; one seed says nothing about the noise"),
        (((0.10,), ()), "no seed of both is finished"),
    ],
)
def test_the_answer_says_when_it_is_none(tmp_path, errors, words):
    experiment, planned = sweep(tmp_path, dict(zip(ERRORS, errors, strict=True)))
    (sentence,) = report.answer(experiment, report.read(planned, tmp_path))
    assert re.search(words, sentence)


def test_the_tables_have_means_deviations_gaps_and_commands(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    results = report.read(planned, tmp_path)
    line = dict(zip(report.arms_sheet(results).headings, report.arms_sheet(results).lines[0], strict=True))
    assert (line["arm"], line["seeds"], line["test error, %"]) == ("width=0.1", 3, "11.00 ± 1.00")
    assert (line["train error, %"], line["test - train"]) == ("5.50 ± 0.50", "5.50 ± 0.50")
    assert (line["images/s"], line["time of a run, s"]) == (100, 100)
    assert line["command"].startswith(
        "`python -m cnn_jax.main --config=configs/mlp.py:digits --config.model.width=0.1 "
    )
    (pair,) = report.pairs_sheet(experiment, results).lines
    assert pair == (
        "width=0.05",
        "width=0.1",
        "5.00 (2.52 to 7.48)",
        "2.50 (1.26 to 3.74)",
        "2.50 (1.26 to 3.74)",
        "worse",
    )


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    record_failure(tmp_path, Task(experiment.arms[0], 4, tmp_path), "killed <b>")
    path = report.make(experiment, planned, tmp_path, "small.py")
    page, text = path.read_text(), (tmp_path / "report.md").read_text()
    assert text.startswith("# Is wide better than narrow?\n\n## Answer\n\n- width=0.05 for 0.1")
    for words in ("as everybody knows", "python -m experiments.sweep small.py", "A, 2 cores", "0123456789-dirty"):
        assert words in text and words in page, words
    assert "2026-01-02" in text and "width=0.1, seed 4: killed <b>" in text and "killed &lt;b&gt;" in page
    assert page.count('src="data:image/png;base64,') == 2 and "https://" not in page and "http://" not in page
    assert set(re.findall(r'src="(\w+)', page)) == {"data"} and "viewport" in page and "@media print" in page
    assert {png.name for png in tmp_path.glob("*.png")} == {"curves.png", "cost.png"}
    assert page.count("<table>") == page.count('<div class="table">') == 2


def test_a_report_can_be_made_of_nothing(tmp_path):
    experiment, planned = sweep(tmp_path, {})
    report.make(experiment, planned, tmp_path, "small.py")
    text = (tmp_path / "report.md").read_text()
    assert "no seed of both is finished" in text and "width=0.1: no finished run" in text
