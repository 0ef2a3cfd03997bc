import csv
import json
import math
import re

import pytest

from cnn_jax.analysis import layer_sheets
from cnn_jax.analysis.layer_table import LayerRow
from cnn_jax.config import recipes
from cnn_jax.display import plots
from cnn_jax.display.tables import render

LENET = "--config=configs/lenet5.py"


@pytest.fixture
def command(call):
    """Returns what `cnn_jax summary` prints."""
    return lambda *arguments: call("summary", *arguments).out


def network(config):
    return layer_sheets.network(config, layer_sheets.trace(config))


# ---------------------------------------------------------------- tables


def test_the_text_has_layers_stages_and_totals_and_a_run_gets_the_same(command, tmp_path):
    text = command(LENET)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["pool1", "pool", "average 2x2/2", "14x14x6", "0", "0", "4.7 k", "18.8 k", "6x6", "2x2"] in lines
    # (120+84+10)*4 and (400+120+84)*4 bytes
    assert ["head", "3", "-", "59,134", "95.8%", "58.9 k", "14.1%", "856", "2.42 k"] in lines
    for line in (
        ["parameters", "61,706"],
        ["parameters of convolutions and normalization", "2,572"],
        ["parameters of linear layers", "59,134"],
        ["linear layers' share of parameters", "95.8%"],
        ["MACs of convolutions", "357,600"],
        ["MACs of linear layers", "58,920"],
        ["linear layers' share of MACs", "14.1%"],
        ["activations, elements", "8,878"],
        ["activations, bytes", "35,512"],
        ["receptive field of the last convolution", "14x14"],
    ):
        assert line in lines
    config = recipes.get_config("lenet5")
    layer_sheets.write(config, layer_sheets.trace(config), tmp_path / "summary.txt")
    assert (tmp_path / "summary.txt").read_text(encoding="utf-8") == text


def test_markdown_and_csv_have_the_same_layers(command):
    table = command(LENET, "--format=markdown")
    assert "| conv2/conv | conv | 5x5/1 | 10x10x16 | 2,416 | 240 k | 6.4 k | 4.7 k | 14x14 | 2x2 |" in table
    assert "| MACs | 416,520 |" in table
    rows = list(csv.DictReader(command(LENET, "--format=csv").splitlines()))
    assert len(rows) == 7 and sum(int(row["MACs"]) for row in rows) == 416_520
    assert (
        rows[2]["layer"] == "conv2/conv" and rows[2]["receptive field"] == "14x14" and rows[2]["bytes kept"] == "4704"
    )


@pytest.mark.parametrize("name", ["googlenet", "resnet50", "vgg16"])
def test_the_tables_fit_a_terminal_and_cut_nothing_off(name):
    config = recipes.get_config(name, "imagenet2012")
    one = network(config)
    text = render(layer_sheets.sheets(one), "text")
    assert max(map(len, text.splitlines())) <= 120
    for row in one.rows:
        assert row.name in text and row.detail.removesuffix(", pad 0").split(", pad 0,")[0] in text


def test_stages_are_sums_over_their_layers():
    one = network(recipes.get_config("vgg16", "imagenet2012"))
    assert list(one.stages) == [f"{kind}{i}" for i in range(1, 6) for kind in ("conv", "pool")] + ["head"]
    assert one.stages["conv3"].parameters == 295_168 + 2 * 590_080
    assert one.stages["head"].linear_parameters == 123_642_856
    assert sum(sums.activations for sums in one.stages.values()) == one.totals.activations - 224 * 224 * 3


# ---------------------------------------------------------------- networks side by side


def test_networks_are_side_by_side_with_their_ratios(command):
    text = command(
        LENET,
        "--config.model.dropout=0.1",
        "--compare=model.head=gap",
        "--compare=configs/lenet5.py:mnist model.width=2",
        "--format=csv",
    )
    rows = {row[0]: row[1:] for row in csv.reader(text.splitlines())}
    first, second, third = (
        "lenet5 for digits, model.dropout=0.1",
        "lenet5 for digits, model.dropout=0.1, model.head=gap",
        "lenet5 for mnist, model.width=2",
    )
    assert rows["quantity"] == [first, second, f"ratio of {second}", third, f"ratio of {third}"]
    gap = 156 + 2416 + 170
    wide = 25 * 12 + 12 + 25 * 12 * 32 + 32 + 800 * 240 + 240 + 240 * 168 + 168 + 168 * 10 + 10
    assert rows["parameters"] == ["61706", str(gap), f"{gap / 61706:.6g}", str(wide), f"{wide / 61706:.6g}"]
    assert rows["linear layers' share of parameters"][1:3] == [f"{170 / gap:.6g}", ""]
    assert rows["receptive field of the last convolution"] == ["14x14", "14x14", "", "14x14", ""]


def test_stages_of_both_networks_keep_their_order():
    vgg, inception = (network(recipes.get_config(name, "imagenet2012")) for name in ("vgg16", "googlenet"))
    totals, parameters, macs = layer_sheets.comparison([vgg, inception])
    assert totals.headings == ("quantity", "vgg16 for imagenet2012", "googlenet for imagenet2012", "ratio")
    stages = [line[0] for line in parameters.lines]  # without pooling, which has neither
    assert stages[:7] == ["conv1", "conv2_reduce", "conv2", "inception_3a", "inception_3b", "conv3", "inception_4a"]
    assert stages == [line[0] for line in macs.lines]
    rows = {line[0]: line[1:] for line in parameters.lines}
    assert rows["conv1"] == (38_720, 9_472, 9_472 / 38_720)
    assert rows["inception_3a"] == (None, 163_696, None) and rows["conv3"] == (1_475_328, None, None)


def test_json_of_a_comparison_has_the_ratios(command):
    found = json.loads(command(LENET, "--compare=model.head=gap", "--format=json"))
    assert [one["label"] for one in found] == ["lenet5 for digits", "lenet5 for digits, model.head=gap"]
    assert "ratios" not in found[0]
    gap = 156 + 2416 + 170
    assert math.isclose(found[1]["ratios"]["parameters"], gap / 61_706)
    assert math.isclose(found[1]["ratios"]["linear_macs"], 160 / 58_920)
    assert found[1]["ratios"]["norm_parameters"] is None and found[1]["ratios"]["receptive_field"] is None
    assert found[1]["totals"]["parameters"] == gap


# ---------------------------------------------------------------- pictures


def test_bars_are_layers_blocks_or_stages():
    layers, blocks, stages = (
        layer_sheets.bars(network(recipes.get_config(name, "imagenet2012")).rows)
        for name in ("alexnet", "resnet50", "googlenet")
    )
    assert [bar[0] for bar in layers] == [
        *(f"conv{i}" for i in range(1, 6)),
        *("head/hidden/0", "head/hidden/1", "head/classifier"),
    ]
    assert [bar[0] for bar in blocks][:3] == ["conv1", "conv2_x/0", "conv2_x/1"] and len(blocks) == 1 + 16 + 1
    assert [bar[0] for bar in stages][:4] == ["conv1", "conv2_reduce", "conv2", "inception_3a"]
    assert blocks[0][1] == 7 * 7 * 3 * 64 + 2 * 64  # its BatchNorm counts with it
    for bars, parameters, linear, macs in (
        (layers, 60_965_224, 58_631_144, 724_406_816),
        (blocks, 25_557_032, 2_049_000, 4_089_184_256),
    ):
        assert [sum(bar[i] for bar in bars) for i in (1, 2, 3)] == [parameters, linear, macs]
    many = [LayerRow(f"conv2_x/{i}/conv", "conv", "", (1,), 1, 1) for i in range(25)]
    assert layer_sheets.bars(many) == [("conv2_x", 25, 0, 25, 0)] and len(layer_sheets.bars(many[:24])) == 24
    assert layer_sheets.bars([LayerRow(f"conv1_{i}", "conv", "", (1,), 1, 1) for i in range(25)])[0][0] == "conv1"


def test_a_picture_has_networks_side_by_side_on_one_scale(tmp_path, monkeypatch):
    figures = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    small, large = [("a", 10, 4, 100, 4), ("b", 20, 0, 300, 0)], [("c", 40, 40, 5000, 5000)]
    path = plots.plot_layers({"small": small, "large": large}, tmp_path / "layers.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    axes = figure.axes
    titles = ["small: 30 parameters", "large: 40 parameters", "small: 400 MACs", "large: 5 k MACs"]
    assert [axis.get_title() for axis in axes] == titles
    heights = [[bar.get_height() for bar in axis.patches] for axis in axes]  # convolutions, then linear layers on top
    assert heights == [[6, 20, 4, 0], [0, 40], [96, 300, 4, 0], [0, 5000]]
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[2].get_ylim()[1] > 5000
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["a", "b"]


# ---------------------------------------------------------------- the command


def test_json_and_plot_need_no_data_set(command, tmp_path):
    path = tmp_path / "layers.png"
    arguments = ("--config=configs/resnet18.py:imagenet2012", "--config.data.dir=/nowhere", f"--plot={path}")
    found = json.loads(command(*arguments, "--format=json"))
    assert found["input_shape"] == [224, 224, 3] and found["bytes_per_value"] == 2  # the recipe's bfloat16
    assert (found["totals"]["parameters"], found["totals"]["receptive_field"]) == (11_689_512, [435, 435])
    assert sum(stage["macs"] for stage in found["stages"].values()) == found["totals"]["macs"] == 1_814_073_344
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give --config=RECIPE"),
        ((LENET, "--format=xml"), 2, "should be one of <text|markdown|csv|json>"),
        ((LENET, "--config.data.image_size=(4,4)"), 2, "too small for this network: in layer 'conv2/conv'"),
        ((LENET, "--plot=layers.svg"), 2, "ends in .png"),
        (("--config=configs/alexnet.py", "--config.model.groups=5"), 2, "groups is 5, but must divide"),
        (("--config=configs/resnet50.py", "--config.model.variant=v2"), 2, "must be one of v1, v1.5"),
        ((LENET, "--compare=configs/lenet.py"), 2, "--compare: there is no file 'configs/lenet.py'; did you mean"),
        ((LENET, "--compare=configs/lenet5.py:mnits"), 2, "no data set is called 'mnits'; did you mean 'mnist'?"),
        ((LENET, "--compare=model.hed=gap"), 2, "no field 'model.hed'; did you mean 'model.head'"),
        ((LENET, "--compare=model.head=gab"), 2, "head is 'gab'"),
        ((LENET, "--compare=model.width=wide"), 2, "--config.model.width=wide: could not convert string to float"),
        ((LENET, "--compare=batch_size=2.5"), 2, "--config.batch_size=2.5"),
        ((LENET, "--compare=configs/vgg16.py model.head"), 2, "'model.head' is no FIELD=VALUE"),
        ((LENET, "--compare=model.head='gap"), 2, "No closing quotation"),
        ((LENET, "--compare="), 2, "is no FIELD=VALUE"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, code, message):
    error = refused("summary", *arguments, code=code)
    assert message in error and error.count("\n") == 1


def test_picture_that_cannot_be_written_is_a_storage_error(call):
    printed = call("summary", LENET, "--plot=/nowhere/layers.png", code=74)
    assert "error: --plot: '/nowhere/layers.png' cannot be written" in printed.err


def test_auxiliary_heads_are_listed_separately(command):
    text = command("--config=googlenet:imagenet2012")
    main, auxiliary = 6_998_552, 13_378_280 - 6_998_552
    assert re.search(rf"parameters of the main network +{main:,}\n", text)
    assert re.search(rf"parameters of auxiliary heads, for training only +{auxiliary:,}\n", text)
    assert re.search(r"linear layers' share of the main network +14\.6%\n", text)
    assert "auxiliary" not in command(LENET)
