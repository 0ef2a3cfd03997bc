import re
from dataclasses import replace

import numpy as np
import pytest

from cnn_jax.display import plots
from cnn_jax.sweeping import figures
from cnn_jax.sweeping import sweep_report as report
from cnn_jax.sweeping.answers import compare
from cnn_jax.sweeping.plan import tasks
from sweeps import ERRORS, read, sweep


def test_the_tables_have_means_deviations_gaps_speed_and_commands(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    results = read(planned, tmp_path)
    sheet = report.arms_sheet(results)
    line = dict(zip(sheet.headings, sheet.lines[0], strict=True))
    assert (line["arm"], line["seeds"], line["test error, %"]) == ("width=0.1", 3, "11.00 ± 1.00")
    assert (line["train error, %"], line["test - train"]) == ("5.50 ± 0.50", "5.50 ± 0.50")
    # 100, 200 and three times 400 images/s: the median is 400. Four steps of 64 images.
    assert (line["images/s"], line["training, s"]) == (400, 0.6)
    assert line["command"].startswith("cnn_jax train --config=configs/mlp.py:digits --config.model.width=0.1")
    (pair,) = report.pairs_sheet(compare(experiment, results)).lines
    assert pair[:3] == ("width=0.05", "width=0.1", "+5.00 points (+2.52 to +7.48)")
    assert pair[3:] == ("+2.50 points (+1.26 to +3.74)",) * 2 + ("worse",)


def test_runs_of_another_configuration_do_not_count_and_are_named(tmp_path):
    _, planned = sweep(tmp_path, ERRORS)
    for seed, field, value in ((0, "optim.learning_rate", 7.0), (1, "eval.train_part", False)):
        path = tmp_path / "width=0.1" / f"seed-{seed}" / "config.json"
        config = planned[0].config.copy_and_resolve_references()
        config.seed = seed
        config.update_from_flattened_dict({field: value})
        path.write_text(config.to_json())
    results = read(planned, tmp_path)
    assert list(results[0].runs) == [2] and list(results[1].runs) == [0, 1, 2]
    every = tasks(planned, range(4), tmp_path)
    every[-1].fail("killed")
    assert report.missing(every) == [
        "width=0.1, seed 0: its folder holds a run of another configuration",
        "width=0.1, seed 1: its folder holds a run of another configuration",
        "width=0.1, seed 3: not finished",
        "width=0.05, seed 3: killed",
    ]


def test_the_page_is_self_contained(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    tasks(planned, [3], tmp_path)[0].fail("killed <b>")
    path = report.make(experiment, planned, tmp_path, seeds=4, command="cnn_jax sweep small.py --seeds=4")
    page, text = path.read_text(), (tmp_path / "report.md").read_text()
    assert text.startswith("# Is wide better than narrow?\n\n## Answer\n\n- width=0.05 for 0.1: worse")
    for words in (
        "as everybody knows",
        "cnn_jax sweep small.py --seeds=4",
        "A, 2 cores",
        "0123456789-dirty",
    ):
        assert words in text and words in page, words
    assert "2026-01-02" in text and "width=0.1, seed 3: killed \\<b\\>" in text and "killed &lt;b&gt;" in page
    assert "only 3 of 4 pairs are finished" in text and "may not come from the arms alone" not in text
    assert page.count('src="data:image/png;base64,') == 2 and "https://" not in page and "http://" not in page
    assert set(re.findall(r'src="(\w+)', page)) == {"data"} and "viewport" in page and "@media print" in page
    assert {png.name for png in tmp_path.glob("*.png")} == {"curves.png", "cost.png"}
    assert page.count("<table>") == page.count('<div class="table">') == 4


def test_a_change_of_machine_or_code_is_reported(tmp_path):
    experiment, planned = sweep(tmp_path, ERRORS)
    path = tmp_path / "width=0.1" / "seed-0" / "run.json"
    path.write_text(path.read_text().replace("0123456789abcdef-dirty", "fedcba9876543210"))
    report.make(experiment, planned, tmp_path, seeds=3, command="x")
    assert (
        "**Runs differ in commit: differences may not come from the arms alone.**"
        in (tmp_path / "report.md").read_text()
    )


def test_a_report_can_be_made_without_runs(tmp_path):
    experiment, planned = sweep(tmp_path, {})
    report.make(experiment, planned, tmp_path, seeds=1, command="x")
    text = (tmp_path / "report.md").read_text()
    assert "no seed of both is finished" in text and "width=0.1, seed 0: not finished" in text


# ---------------------------------------------------------------- what is drawn


def test_a_band_is_the_mean_of_the_seeds_and_one_deviation_to_each_side():
    _, axis = plots.subplots(1, figsize=(4, 3), layout="constrained")
    x = np.array([1.0, 2.0])
    figures.band(axis, [(x, np.array([1.0, 4.0])), (x, np.array([3.0, 4.0]))], color="C0")
    assert axis.lines[0].get_ydata().tolist() == [2, 4]
    corners = axis.collections[0].get_paths()[0].vertices
    heights = sorted({round(float(y), 6) for x, y in corners if x == 1})
    np.testing.assert_allclose(heights, [2 - 2**0.5, 2 + 2**0.5], atol=1e-5)


def test_figures_of_responses_and_gradients_leave_out_shortcuts():
    names = (
        ("conv1", "conv", 1.0),
        ("norm1", "norm", 2.0),
        ("shortcut_norm", "norm", 3.0),
        ("shortcut_conv", "conv", 9.0),
    )
    layers = {
        "layers": [{"name": name, "kind": kind, "deviation": value} for name, kind, value in names],
        "parameters": [{"name": f"{name}/kernel", "gradient_norm": 10 * value} for name, _, value in names],
    }
    assert figures.responses(layers).tolist() == [2] and figures.gradients(layers).tolist() == [10]
    plain = layers | {"layers": [row for row in layers["layers"] if row["kind"] == "conv"]}
    assert figures.responses(plain).tolist() == [1]


def test_a_band_over_magnitudes_is_computed_on_logarithms(tmp_path):
    figure, axis = plots.subplots(1)
    x = np.arange(2)
    figures.band(axis, [(x, np.array([1e-6, 1.0])), (x, np.array([1.0, 4.0]))], log=True)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [1e-3, 2])
    low = min(vertex[1] for vertex in axis.collections[0].get_paths()[0].vertices)
    assert low == pytest.approx(np.exp(np.mean(np.log([1e-6, 1])) - np.std(np.log([1e-6, 1]), ddof=1)))
    plots.save(figure, tmp_path / "band.png")


def test_a_trend_has_a_line_for_arms_that_differ_in_its_field_only(tmp_path, monkeypatch):
    experiment, planned = sweep(tmp_path, ERRORS)
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure) or path)
    trend = replace(experiment, trend="model.width")
    _, caption = figures.draw_trend(trend, read(planned, tmp_path), tmp_path / "trend.png")
    (axis,) = drawn[0].axes
    (line,) = [bars.lines[0] for bars in axis.containers]
    np.testing.assert_allclose(line.get_xdata().astype(float), [0.05, 0.1])
    np.testing.assert_allclose(line.get_ydata().astype(float), [16, 11])
    assert axis.get_xlabel() == "width" and caption.startswith("Test error over width")


def test_a_timeline_has_each_network_at_its_year_and_its_costs(tmp_path, monkeypatch):
    experiment, planned = sweep(tmp_path, ERRORS)
    results = [
        replace(one, planned=replace(one.planned, arm=replace(one.arm, year=year)))
        for year, one in zip((1998, 2012), read(planned, tmp_path), strict=True)
    ]
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure) or path)
    _, caption = figures.draw_timeline(experiment, results, tmp_path / "timeline.png")
    places = [[tuple(bars.lines[0].get_xydata()[0]) for bars in axis.containers] for axis in drawn[0].axes]
    assert [x for x, _ in places[0]] == [1998, 2012] and [x for x, _ in places[1]] == [
        one.parameters for one in planned
    ]
    for points in places:
        np.testing.assert_allclose([error for _, error in points], [11, 16])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["width=0.1", "width=0.05"]
    assert "year" in caption
