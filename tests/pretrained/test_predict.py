"""The command predict, and the networks that come with the package."""

import csv
import io
import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.data.splits import Splits
from cnn_jax.pretrained import predictions
from cnn_jax.pretrained import source as pretrained

ROOT = Path(__file__).parents[2]


def test_top_classes_are_sorted_with_ties_in_class_order():
    found = predictions.top_classes(np.array([[0.2, 0.5, 0.2, 0.1], [0.25] * 4], np.float32), [*"abcd"], 3)
    assert [[name for name, _ in best] for best in found] == [["b", "a", "c"], ["a", "b", "c"]]
    assert found[0][0][1] == 0.5
    assert [len(best) for best in predictions.top_classes(np.ones((1, 2)), [*"ab"], 5)] == [2]


FOUND = [[("cat, tabby", 0.75), ("dog", 0.25)], [("dog", 1.0), ("cat, tabby", 0.0)]]


def test_csv_and_json_hold_every_number():
    rows = list(csv.DictReader(io.StringIO(predictions.render(["a", "b,c"], FOUND, "csv", source="net"))))
    assert rows[0] == {"file": "a", "rank": "1", "class": "cat, tabby", "probability": "0.75"}
    assert [(row["file"], row["rank"]) for row in rows] == [("a", "1"), ("a", "2"), ("b,c", "1"), ("b,c", "2")]
    read = json.loads(predictions.render(["a", "b,c"], FOUND, "json", source="net", unreadable={"d": "why"}))
    assert (read["source"], read["unreadable"]) == ("net", {"d": "why"})
    assert read["predictions"][1] == {
        "file": "b,c",
        "classes": [{"class": "dog", "probability": 1.0}, {"class": "cat, tabby", "probability": 0.0}],
    }


def test_the_table_has_a_line_for_each_picture():
    lines = predictions.render(["a", "b,c"], FOUND, "table", source="net").splitlines()
    assert lines[0] == "net" and re.fullmatch(r"a +cat, tabby +75.0% +dog +25.0%", lines[2]) and len(lines) == 4


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Six test digits as pictures, and what they show."""
    folder = tmp_path_factory.mktemp("digits")
    examples = Splits(recipes.get_config("lenet5").data, 0).parts["test"].source.read(range(6))
    for i, example in enumerate(examples):
        (folder / f"{i}").mkdir()
        Image.fromarray(example["image"][..., 0]).save(folder / f"{i}/digit.png")
    return folder, [str(example["label"]) for example in examples]


NET = "--checkpoint=bundled:lenet5-digits"


def test_pictures_are_named(call, digits):
    folder, labels = digits
    read = json.loads(call("predict", ".", NET, "--format=json", "--top=3", "--batch-size=4", cwd=folder).out)
    assert [one["classes"][0]["class"] for one in read["predictions"]] == labels
    assert all(len(one["classes"]) == 3 for one in read["predictions"])
    probabilities = cnn_jax.load("bundled:lenet5-digits").probabilities(sorted(folder.glob("*/digit.png")))
    best = [one["classes"][0]["probability"] for one in read["predictions"]]
    np.testing.assert_allclose(best, np.max(probabilities, axis=1), rtol=1e-4)


def test_unreadable_picture_is_named_and_changes_the_code(call, refused, digits, tmp_path):
    folder, labels = digits
    (tmp_path / "bad.png").write_bytes(b"no picture")
    words = (folder / "0", "bad.png", NET)
    assert refused("predict", *words, cwd=tmp_path).startswith("error: bad.png: it is no JPEG, PNG")
    options = ("--on-error=skip", "--format=csv", "--output=found.csv")
    skipped = call("predict", *words, *options, cwd=tmp_path, code=1)
    assert "left out: bad.png" in skipped.err and "1 of 2 files are left out" in skipped.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text())))
    assert len(rows) == 5 and rows[0]["class"] == labels[0] and skipped.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "found.csv"]


def test_classes_without_names_are_numbered(call, digits, tmp_path):
    folder, labels = digits
    source = pretrained.open_source("bundled:lenet5-digits")
    given = dict(source.input) | {"classes": None}
    pretrained.save(tmp_path / "a.safetensors", source.leaves, model=source.model, given=given)
    told = call("predict", "0", f"--checkpoint={tmp_path}/a.safetensors", "--top=1", "--format=csv", cwd=folder)
    assert told.out.splitlines()[1].startswith(f"0/digit.png,1,{labels[0]},")
    assert "does not name its classes: they are numbered from 0" in told.err
    headless = {name: leaf for name, leaf in source.leaves.items() if "classifier" not in name}
    pretrained.save(tmp_path / "b.safetensors", headless, model=source.model, given=given)
    with pytest.raises(UserError, match="has no head that tells classes apart"):
        cnn_jax.load(tmp_path / "b.safetensors")


def test_features_are_written_with_the_names_of_the_folders(call, digits, tmp_path):
    folder, _ = digits
    told = call("predict", ".", NET, "--features", f"--output={tmp_path}/f.npz", "--batch-size=4", cwd=folder).out
    assert told == f"{tmp_path}/f.npz: 84 features of 6 pictures with 6 labels\n"
    with np.load(tmp_path / "f.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["features", "files", "labels", "source"]
        assert archive["labels"].tolist() == [*"012345"] and archive["source"] == "bundled:lenet5-digits"
        files = [folder / file for file in archive["files"]]
        features = archive["features"]
    np.testing.assert_allclose(features, cnn_jax.load("bundled:lenet5-digits").features(files), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NET,), "name the pictures"),
        (("0/digit.png",), "name the trained network: --checkpoint=SOURCE"),
        (("0/digit.png", "--checkpoint=bundled:lenet5-digit"), "did you mean 'lenet5-digits'?"),
        (("0/digit.png", NET, "--top=0"), "--top"),
        (("0/digit.png", NET, "--output=no/such.csv"), "there is no folder 'no'"),
        (("1/digits.png", NET), "did you mean '1/digit.png'?"),
        (("0/digit.png", NET, "--config=configs/lenet5.py"), "this command takes no --config"),
        (("0/digit.png", NET, "--features", "--top=2"), "--top goes without --features"),
        (("0/digit.png", NET, "--features", "--output=f.csv"), "must be a file that ends in .npz"),
        (("0/digit.png", NET, "--pixels"), "--pixels goes with --features"),
    ],
)
def test_mistake_gets_one_message(refused, digits, arguments, message):
    assert message in refused("predict", *arguments, cwd=digits[0])


# ---------------------------------------------------------------- bundled networks

CONFIGS = {
    "lenet5-digits": ("lenet5", "digits"),
    "lenet5-mnist": ("lenet5", "mnist"),
    "resnet20-cifar10": ("resnet20", "cifar10"),
}
TABLE = (ROOT / "cnn_jax/pretrained/weights/README.md").read_text(encoding="utf-8")


def test_every_bundled_network_is_small_and_in_the_table():
    files = pretrained.bundled()
    assert set(files) == set(CONFIGS) == set(re.findall(r"^\| `(\S+)` \|", TABLE, re.M))
    assert all(path.stat().st_size < 2_000_000 for path in files.values())
    with pytest.raises(UserError, match=r"must be one of lenet5-digits, .*; did you mean 'lenet5-mnist'"):
        pretrained.open_source("bundled:lenet5_mnist")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bundled_network_has_the_accuracy_of_the_table(name):
    recipe, dataset = CONFIGS[name]
    config = recipes.get_config(recipe, dataset)
    try:
        data = Splits(config.data, 0)
    except UserError as absent:
        assert dataset != "digits"
        pytest.skip(str(absent).splitlines()[0])
    trained = cnn_jax.load(f"bundled:{name}")
    assert trained.classes == list(data.class_names)
    source = data.parts["test"].source
    right = 0
    for start in range(0, len(source), 1000):
        examples = source.read(range(start, min(len(source), start + 1000)))
        scores = trained(np.stack([example["image"] for example in examples]))
        right += int(np.sum(np.argmax(np.asarray(scores), axis=1) == [example["label"] for example in examples]))
    said = float(re.search(rf"^\| `{name}` \|.*\| ([\d.]+) \|", TABLE, re.M)[1])
    assert f"{100 * right / len(source):.2f}" == f"{said:.2f}"


def test_a_device_stays_and_other_files_are_named(call, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("")
    out, err = call("predict", tmp_path, "--checkpoint=bundled:lenet5-digits", "--output=/dev/null")
    assert out == "" and err == "left out: 1 file of other kinds (notes.txt)\n"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_names_that_are_not_utf8_or_formulas(call, tmp_path):
    name = os.fsdecode(b"=caf\xe9.png")
    Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    output = tmp_path / "o.csv"
    call("predict", name, "--checkpoint=bundled:lenet5-digits", "--format=csv", f"--output={output}", cwd=tmp_path)
    assert b"'=caf\xe9.png,1," in output.read_bytes()
    assert r"=caf\xe9.png" in call("predict", name, "--checkpoint=bundled:lenet5-digits", cwd=tmp_path).out


def test_pictures_of_pillow_and_arrays_of_other_layouts():
    lenet = cnn_jax.load("bundled:lenet5-digits")
    size = (28, 28)
    grey = Image.new("L", size, 200)
    assert lenet([grey, grey.convert("RGB"), np.full((28, 28, 1), 200, np.uint8)]).shape == (3, 10)
    with pytest.raises(UserError, match=r"Its channels come first, as in NCHW: transpose it"):
        lenet([np.zeros((1, 28, 28), np.uint8)])
    with pytest.raises(UserError, match=r"It has no axis of channels: add it"):
        lenet([np.zeros((28, 28), np.uint8)])
