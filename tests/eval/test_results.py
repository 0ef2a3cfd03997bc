"""What an evaluation prints and writes: every number, every example, and names that are never interpreted."""

import csv
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnn_jax.config import recipes
from cnn_jax.data.dataset import ArraySource
from cnn_jax.data.loader import Split
from cnn_jax.eval.results import Predictions, Results, report

NASTY = ["<script>alert(1)</script>", "=1+1", 'a "b" & c']


def predictions(labels, probabilities, names, part="test"):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    split = Split(ArraySource(images, np.asarray(labels)), recipes.get_config("lenet5").data, train=False, seed=0)
    return Predictions("a network", "some data", part, "whole", names, np.asarray(probabilities), labels, split)


@pytest.fixture
def small():
    """Five examples, one of which could not be read; the third and the last are wrong."""
    shares = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0, 0, 0], [0.0, 0.9, 0.1]]
    return predictions(np.array([0, 1, 1, -1, 0]), shares, NASTY)


def printed(results):
    console = Console(file=io.StringIO(), width=100)
    results.print(console)
    return console.file.getvalue()


def drawn(count, classes, part="test", seed=0):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(count, classes))
    labels = np.array([random.choice(classes, p=np.exp(s) / np.exp(s).sum()) for s in scores])
    sharp = np.exp(3 * scores)
    names = [f"class {k} of a very long name that is long and long and long, over {k} lines" for k in range(classes)]
    return predictions(labels, sharp / sharp.sum(1, keepdims=True), names, part)


def test_the_numbers_of_a_small_part(small):
    found = Results(small).summary
    assert (found["examples"], found["unreadable"], found["top1_accuracy"]) == (4, 1, 0.5)
    assert found["loss"] == pytest.approx(-np.log([0.8, 0.7, 0.3, np.finfo(np.float32).tiny]).mean())
    assert [row["recall"] for row in found["classes"]] == [0.5, 0.5, None]
    assert found["most_confused"] == [
        {"true": NASTY[0], "predicted": NASTY[1], "count": 1, "share": 0.5},
        {"true": NASTY[1], "predicted": NASTY[0], "count": 1, "share": 0.5},
    ]
    assert found["calibration"]["temperature"] is None


def test_a_table_of_many_classes_has_the_worst_in_100_columns():
    results = Results(drawn(600, 30))
    text = printed(results)
    assert max(map(len, text.splitlines())) <= 100
    assert "the 10 of 30 with the lowest F1" in text and "…" in text
    rows = [line for line in text.splitlines() if line.startswith("class ") and "…" in line]
    lowest = sorted(results.summary["classes"], key=lambda row: row["f1"])[:10]
    assert [line.split()[1] for line in rows] == [row["name"].split()[1] for row in lowest]
    assert f"{results.summary['macro']['f1']:.1%}" in next(line for line in text.splitlines() if "macro" in line)


def test_the_temperature_comes_from_the_validation_part_alone():
    test, validation = drawn(600, 5), drawn(600, 5, "validation", seed=1)
    results = Results(test, validation)
    assert 2.4 < results.temperature < 3.6 and results.calibrated_ece < results.reliability.ece / 2
    assert "fitted to the validation part alone" in printed(results)
    # Other labels in the test part do not change it.
    other = predictions(np.zeros_like(test.labels), test.probabilities, test.class_names)
    assert Results(other, validation).temperature == results.temperature
    assert Results(validation, validation).temperature is None
    sure = predictions(np.array([0, 1]), [[0.9, 0.1], [0.1, 0.9]], ["a", "b"], "validation")
    assert "nearly all validation predictions are right" in printed(Results(two_examples(), sure))


def two_examples():
    return predictions(np.array([0, 1]), [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_files_have_every_example_and_names_are_text(small, tmp_path):
    console = Console(file=io.StringIO(), width=100)
    report({"test": small}, "test", console, json_file=tmp_path / "r.json", folder=tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((tmp_path / "r.json").read_text()) == Results(small).summary
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["example 0", "example 1", "example 2", "example 4"]
    assert rows[1]["true"] == "'=1+1" and float(rows[1]["probability"]) == 0.7
    assert (rows[2]["predicted"], rows[2]["class_2"], rows[2]["probability_2"]) == (NASTY[0], "'=1+1", "0.3")
    confusion = list(csv.reader((out / "confusion.csv").read_text().splitlines()))
    assert [row[1:] for row in confusion] == [
        [NASTY[0], "'=1+1", NASTY[2]],
        ["1", "1", "0"],
        ["1", "1", "0"],
        ["0"] * 3,
    ]
    assert sorted(file.name for file in out.iterdir()) == [
        *("confusion.csv", "confusion.png", "errors.html", "predictions.csv", "reliability.png")
    ]
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) > 300

    page = Page((out / "errors.html").read_text())
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4 and all(one["src"].startswith("data:image/") for one in images)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    assert all(name in page.text for name in NASTY[:2])
    # The worst error is the more confident one.
    assert page.text.index("example 4") < page.text.index("example 2")


def test_a_part_without_errors_has_a_page(tmp_path):
    right = predictions(np.array([0, 1]), [[0.9, 0.1], [0.1, 0.9]], ["a", "b"])
    Results(right).write(tmp_path / "new" / "folder")
    assert "There are none." in (tmp_path / "new" / "folder" / "errors.html").read_text()
