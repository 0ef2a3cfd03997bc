import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LENET = "--config=configs/lenet5.py"


def command(*arguments, code=0):
    line = [sys.executable, "-m", "cnn_jax.summary", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_the_text_has_layers_stages_and_totals():
    text = command(LENET)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["pool1", "pool", "average 2x2/2, pad 0", "14x14x6", "0", "0", "0", "4,704", "18,816", "6x6", "2x2"] in lines
    assert ["head", "3", "10", "59,134", "58,920", "856", "2,416"] in lines  # (120+84+10)*4, (400+120+84)*4 bytes
    assert ["parameters", "61,706"] in lines and ["receptive field of the last convolution", "14x14"] in lines
    assert ["activations, elements", "8,878"] in lines


def test_markdown_and_csv_have_the_same_layers():
    table = command(LENET, "--format=markdown")
    assert "| conv2 | conv | 5x5/1, pad 0 | 10x10x16 | 2,416 | 0 | 240,000 | 6,400 | 4,704 | 14x14 | 2x2 |" in table
    assert "| MACs | 416,520 |" in table
    rows = list(csv.DictReader(command(LENET, "--format=csv").splitlines()))
    assert len(rows) == 7 and sum(int(row["MACs"]) for row in rows) == 416_520
    assert rows[2]["layer"] == "conv2" and rows[2]["receptive field"] == "14x14"


def test_json_has_everything_and_a_plot_is_drawn_and_no_data_set_is_needed(tmp_path):
    path = tmp_path / "layers.png"
    arguments = ("--config=configs/resnet18.py:imagenet2012", "--config.data.dir=/nowhere", f"--plot={path}")
    found = json.loads(command(*arguments, "--format=json"))
    assert found["input_shape"] == [224, 224, 3] and found["bytes_per_value"] == 2  # the recipe's bfloat16
    assert (found["totals"]["parameters"], found["totals"]["receptive_field"]) == (11_689_512, [435, 435])
    assert sum(stage["macs"] for stage in found["stages"].values()) == found["totals"]["macs"] == 1_814_073_344
    assert path.read_bytes().startswith(b"\x89PNG")


def test_networks_stand_side_by_side():
    text = command(LENET, "--compare=model.head=gap", "--compare=configs/lenet5.py:mnist model.width=2", "--format=csv")
    rows = {row[0]: row[1:] for row in csv.reader(text.splitlines())}
    assert rows["quantity"][:3] == ["lenet5 for digits", "model.head=gap", "configs/lenet5.py:mnist model.width=2"]
    gap = 156 + 2416 + 170
    wide = 25 * 12 + 12 + 25 * 12 * 32 + 32 + 800 * 240 + 240 + 240 * 168 + 168 + 168 * 10 + 10
    assert rows["parameters"] == ["61706", str(gap), str(wide), f"{gap / 61706:.4g}", f"{wide / 61706:.4g}"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give --config=FILE"),
        ((LENET, "--format=xml"), 2, "should be one of <text|markdown|csv|json>"),
        ((LENET, "--config.data.image_size=(4,4)"), 2, "too small for this network: in layer 'conv2'"),
        ((LENET, "--plot=layers.svg"), 2, "ends in .png"),
        ((LENET, "--plot=/nowhere/layers.png"), 74, "'/nowhere/layers.png' cannot be written"),
        ((LENET, "--compare=configs/nothing.py"), 2, "--compare 'configs/nothing.py'"),
        ((LENET, "--compare=model.hed=gap"), 2, "no field 'model.hed'"),
        ((LENET, "--compare=model.head=gab"), 2, "head is 'gab'"),
    ],
)
def test_a_mistake_gets_one_message(arguments, code, message):
    error = command(*arguments, code=code)
    assert message in error and error.startswith("error: ") and "Traceback" not in error


def test_importing_the_library_defines_no_flags_and_loads_no_jax():
    script = "import sys, cnn_jax.summary; assert not {'jax', 'absl', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert "--plot" in command("--help")
