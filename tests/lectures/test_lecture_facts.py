"""The lecture companion: our numbers against independent ones, and against the reference next to the clone."""

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


def test_a_wrong_number_of_ours_is_reported(monkeypatch, capsys):
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
        pytest.skip("the reference of the lectures is not next to the clone")
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
        ("flattened 5x5 on 192 channels: MACs", cost["flat_macs_same"]),
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


# Topic of the reference -> a number of the table that shows the slide's mistake; None: the slide is right or admits it.
MISTAKES = {
    "AlexNet (d) FC1": "AlexNet of 224 pixels, FC1",
    "AlexNet (d) conv2": "AlexNet of 224 pixels, output of conv2",
    "AlexNet (d) sizes": "AlexNet of 224 pixels, size of conv1",
    "AlexNet (c) total": "AlexNet without padding, in all",
    "AlexNet (c) rows": None,  # cut off
    "ZFNet layer 1": None,
    "ZFNet layer 5": None,
    "ZFNet layer 6": "ZFNet - AlexNet, layer 6 (conv4)",
    "ZFNet layer 7": "ZFNet - AlexNet, layer 7 (conv5)",
    "ZFNet layer 9 (FC1)": "ZFNet - AlexNet, layer 9 (fc6)",
    "ZFNet total": "ZFNet - AlexNet, all convolutions",
    "ZFNet stride": "ZFNet's first layer",
    "VGG16 conv": "VGG-16, convolutions",
    "VGG16 FC": "VGG-16, linear layers",
    "MLP 16x16": "MLP 16x16-100-26",
    "1x1 bottleneck params": "behind 16 filters of 1x1: weights",
    "FC share": "share of linear layers, VGG D",
    "padding example": "5x5 image, padding 1",
    '"3D convolution" example': '"3D convolution"',
    "flattened conv": "flattened convolution",
    "Scharr": "the filter of 3, 10, 3",
    "backprop table": "errors of the backprop table",
    "X/O map rows": "copy of the map of the diagonal",
    "X/O pooling summary": "map of the diagonal in the summary of pooling",
    "X/O images": "images of the X/O slides",
    ".55/.77": None,  # cut off
    "image MLP": "pixels of 256x256",
    "VGG 4x4 example": "VGG's example of 4x4",
    "VGG16 memory": "VGG-16, memory forward",
    "VGG table": "VGG E, convolutions in the table",
    "GoogLeNet size": "GoogLeNet, parameters",
    "GoogLeNet table": "GoogLeNet conv1, weights",
    "top-5": None,  # both are right
    "ResNet weight decay": "ResNet's weight decay",
    "ResNet FLOPs": None,  # cut off
    "LeNet volume": "LeNet-5, values from the image to C5",
    "LeNet flatten": "LeNet-5, flattened",
    "VGG-16 stem compare": "stem of VGG-16, MiB",
    "GoogLeNet head row": "head of GoogLeNet, KB",
}


def test_every_wrong_number_of_the_slides_is_in_the_table(reference):
    lines = reference.partition("## Slide vs right")[2].partition("\n## ")[0].splitlines()
    topics = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert topics[0] == "topic" and set(topics[1:]) == set(MISTAKES)
    verdicts = {fact.what: fact.verdict(fact.right) for fact in FACTS} | {row[1]: row[3] for row in WORDS}
    found = {what: verdicts[what] for what in MISTAKES.values() if what}
    assert set(found.values()) == {"wrong on the slide", "unreadable"}
    assert [what for what, verdict in found.items() if verdict == "unreadable"] == ["images of the X/O slides"]
