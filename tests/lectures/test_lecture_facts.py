"""The lecture companion: our numbers against independent ones, and against the reference beside the clone."""

import json
import re
from pathlib import Path

import pytest

import cnn_jax
from experiments.lectures import __main__ as companion
from experiments.lectures.facts import FACTS, WORDS, Fact, examples, toy
from experiments.lectures.facts.fact import interval, same

REFERENCE = Path(cnn_jax.__file__).parents[2] / "shared" / "reference" / "lectures.md"
EXAMPLES = [*examples.facts(), *toy.facts()]


@pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.what)
def test_worked_example_is_that_of_the_independent_count(fact):
    assert same(fact.ours(), fact.right)


@pytest.mark.slow
def test_no_number_of_ours_contradicts_the_independent_one(capsys):
    assert companion.main(["--format=markdown"]) == 0
    printed = capsys.readouterr().out
    assert "CONTRADICTION" not in printed and printed.count("\n| ") == len(FACTS) + len(WORDS) + 1


@pytest.mark.slow
def test_text_fits_100_columns_where_there_is_no_terminal(capsys):
    companion.main(["--lecture=003"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("slide", "ours", "verdict"),
    [
        ("576", 576, "agrees"),
        ("35K", 34_848, "rounded"),
        ("34K", 34_848, "cut off"),
        ("27.55M", 28_813_344, "wrong on the slide"),
        ("2.7Ki", 9_408, "wrong on the slide"),
        ("112Ki", 114_688, "agrees"),
        ("> 90%", 93.9, "agrees"),
        ("> 90%", 89.4, "wrong on the slide"),
        ("800K", 802_816, "rounded"),
        ("800K", 810_000, "wrong on the slide"),
        ("12x", 8.71, "wrong on the slide"),
        (None, 3, "not on the slide"),
        ([[1, 2]], [[1, 2]], "agrees"),
        ([[1, 2]], [[1, 3]], "wrong on the slide"),
    ],
)
def test_a_slide_agrees_is_rounded_cut_off_or_wrong(slide, ours, verdict):
    assert Fact("000", "", slide, ours, lambda: ours).verdict(ours) == verdict


def test_a_number_of_ours_that_is_not_the_right_one_is_told(monkeypatch, capsys):
    monkeypatch.setattr(companion, "FACTS", [Fact("000", "two", "2", 2, lambda: 3)])
    assert companion.main([]) == 1
    assert "CONTRADICTION" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [("27.55M", (27.545e6, 27.55e6, 27.555e6)), ("28236", (28236,) * 3), ("1Ki", (512, 1024, 1536))],
)
def test_interval_of_a_rounded_number(text, expected):
    assert interval(text) == pytest.approx(expected)


def test_html_takes_text_as_text(monkeypatch, tmp_path):
    monkeypatch.setattr(companion, "FACTS", [Fact("000", "<b>a|b</b>", "2", 2, lambda: 2)])
    assert companion.main(["--format=html", f"--output={tmp_path}/a.html"]) == 0
    assert "&lt;b&gt;a|b&lt;/b&gt;" in (tmp_path / "a.html").read_text()


# ---------------------------------------------------------------- the reference

RIGHT = {fact.what: fact.right for fact in FACTS}


@pytest.fixture(scope="module")
def reference():
    if not REFERENCE.is_file():
        pytest.skip("the reference of the lectures is not beside the clone")
    return REFERENCE.read_text(encoding="utf-8")


def test_googlenets_rows_are_those_of_the_reference(reference):
    table = reference.partition("## GoogLeNet table")[2].partition("\n## ")[0]
    rows = [
        [cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line
    ]
    assert len(rows) == 2 + 12
    for name, _, weights, _, _, _, millions in rows[2:]:
        name = "head" if name == "linear" else name
        assert RIGHT[f"GoogLeNet {name}, weights"] == int(weights)
        assert round(RIGHT[f"GoogLeNet {name}, MACs"] / 1e6, 1) == float(millions)


def test_costs_and_heads_are_those_of_the_reference(reference):
    known = json.loads(re.search(r"## Cost and head ablations\n\n```json\n(.*?)\n```", reference, re.S)[1])
    heads, stem, cost = known["heads"], known["stem"], known["bottleneck"]
    for name, fire in known["fires"].items():
        assert RIGHT[f"SqueezeNet {name}, parameters"] == fire["params"]
        assert RIGHT[f"SqueezeNet {name}, MACs"] == fire["macs"]
    for what, expected in (
        ("5x5 on 28x28x192, 32 filters: MACs", cost["direct_macs"]),
        ("behind 16 filters of 1x1: MACs", cost["bott_macs"]),
        ("behind 16 filters of 1x1: weights", cost["bott_w"]),
        ("flattened 5x5 on 192 channels: weights", cost["flat_w"]),
        ("head of vgg16", heads["vgg16_fc_head"]),
        ("head of vgg16 as an average", heads["vgg16_gap_head"]),
        ("head of googlenet", heads["googlenet_gap_head"]),
        ("head of googlenet with two hidden layers", heads["googlenet_flatten_4096_head"]),
        ("head of resnet50", heads["resnet50_gap_head"]),
        ("head of resnet50 flattened", heads["resnet50_flatten_linear_head"]),
        ("head of resnet50 with two hidden layers", heads["resnet50_fc4096x2_head"]),
        ("stem of GoogLeNet, MiB", stem["googlenet"]["MiB"]),
        ("stem of GoogLeNet, weights", stem["googlenet"]["weights"]),
        ("stem of VGG-16, MiB", stem["vgg16_true"]["MiB"]),
        ("stem of VGG-16, weights", stem["vgg16_true"]["weights"]),
        ("VGG-16, memory forward", known["vgg16_memory"]["total"]),
        ("VGG-16, memory forward, bytes", known["vgg16_memory"]["bytes"]),
    ):
        assert RIGHT[what] == expected, what


def test_every_wrong_slide_of_the_reference_has_its_number(reference):
    table = reference.partition("## Slide vs right")[2].partition("\n## ")[0]
    told = {number for fact in FACTS for number in numbers(f"{fact.slide} {fact.right} {fact.why}")}
    told |= {number for row in WORDS for number in numbers(" ".join(row))}
    missing = {}
    for line in [line for line in table.splitlines() if line.startswith("| ")][2:]:
        topic, _, _, slide, right = [cell.strip() for cell in line.split("|")[1:-1]]
        if not (numbers(slide) | numbers(right)) & told:
            missing[topic] = slide
    assert not missing


def numbers(text: str) -> set[str]:
    """Returns the numbers of at least two digits in a text, without commas."""
    return set(re.findall(r"\d*\.?\d{2,}", text.replace(",", "")))
