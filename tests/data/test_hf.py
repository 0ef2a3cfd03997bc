"""Data sets of Hugging Face, written by its own library: examples, parts and classes are those that it reads."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources
from cnn_jax.training import loop
from cnn_jax.training.config_check import check_config
from cnn_jax.training.session import Options

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def hf():
    """The library, offline and without its progress bars."""
    found = pytest.importorskip("datasets", reason="the library datasets is not installed: pip install 'cnn-jax[hf]'")
    found.disable_progress_bars()
    return found


def make_split(hf, count, classes=("ant", "bee"), **columns):
    """Returns a split whose picture i has the value i and the class i % 2."""
    features = {"image": hf.Image(), "label": hf.ClassLabel(names=list(classes))}
    values = {"image": [Image.new("L", (8, 8), i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    features |= {name: feature for name, (feature, _) in columns.items()}
    values |= {name: column for name, (_, column) in columns.items()}
    return hf.Dataset.from_dict(values, features=hf.Features(features))


def make_config(root, **fields):
    config = get_config("hf").data
    config.dir, config.channels = str(root), 1
    config.update(fields)
    return config


def contents(source):
    return [(int(np.asarray(e["image"])[0, 0, 0]), e["label"]) for e in source.read(range(len(source)))]


# ---------------------------------------------------------------- without the library


def test_the_name_behind_hf_is_that_of_the_hub():
    config = recipes.get_config("resnet50", "hf:uoft-cs/cifar10:plain_text")
    check_config(config)
    assert (config.data.source, config.data.name) == ("hf", "hf:uoft-cs/cifar10:plain_text")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"need the library datasets: pip install 'cnn-jax\[hf\]'"):
        sources.open_dataset(get_config("hf:mnist").data)


# ---------------------------------------------------------------- with the library


@pytest.mark.nightly
def test_examples_are_those_that_the_library_reads(hf, tmp_path):
    written = {"train": make_split(hf, 20), "validation": make_split(hf, 6), "test": make_split(hf, 4)}
    hf.DatasetDict(written).save_to_disk(tmp_path)
    found = sources.open_dataset(make_config(tmp_path))
    assert found.class_names == ["ant", "bee"]
    for part, split in written.items():
        expected = [(int(np.asarray(row["image"])[0, 0]), row["label"]) for row in split]
        assert contents(found.parts[part]) == expected
        np.testing.assert_array_equal(dataset.labels_of(found.parts[part]), [label for _, label in expected])
    assert dataset.name(found.parts["test"], 3) == f"{tmp_path}, test, example 3"


@pytest.mark.nightly
def test_parquet_files_and_picture_folders_are_read(hf, tmp_path, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        (tmp_path / "parquet" / "data").mkdir(parents=True, exist_ok=True)
        make_split(hf, 10).to_parquet(tmp_path / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
        for i in range(10):
            place = tmp_path / "pictures" / split / ("ant", "bee")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(place / f"{i}.png")
    for name in ("parquet", "pictures"):
        found = sources.open_dataset(make_config(tmp_path / name))
        assert found.chosen == {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
        assert sorted(contents(found.parts["test"])) == [(i, i % 2) for i in range(10)]
        assert found.class_names == ["ant", "bee"]
        assert len(found.digest()) == 64


@pytest.mark.nightly
def test_one_split_is_cut_and_words_are_classes(hf, tmp_path):
    words = (hf.Value("string"), ["cat" if i % 3 else "ape" for i in range(30)])
    make_split(hf, 30, kind=words).remove_columns("label").save_to_disk(tmp_path)
    with pytest.raises(UserError, match=r"has the splits train: say which part is what, such as --config\.data\.train"):
        sources.open_dataset(make_config(tmp_path))
    cut = dict(train="train[:50%]", validation="train[50%:70%]", test="train[70%:]")
    with pytest.raises(UserError, match=r"the columns image \(Image\), kind \(Value\): name those"):
        sources.open_dataset(make_config(tmp_path, **cut))
    found = sources.open_dataset(make_config(tmp_path, columns=("image", "kind"), **cut))
    assert found.class_names == ["ape", "cat"]
    together = [one for part in PARTS for one in contents(found.parts[part])]
    assert sorted(together) == [(i, int(i % 3 > 0)) for i in range(30)]
    assert [len(found.parts[part]) for part in PARTS] == [15, 6, 9]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dir=""), "name a data set of the Hub, hf:OWNER/NAME, or hf with the folder of one"),
        (dict(dir="/nowhere"), "there is no such folder"),
        (dict(name="hf:mnist"), "name a data set of the Hub, hf:OWNER/NAME, or hf with the folder of one"),
        (dict(columns=("photo", "label")), r"columns has 'photo', but .* has image \(Image\), label \(ClassLabel\)"),
        (dict(columns=("label", "label")), "label is a ClassLabel, but must be an Image"),
        (dict(test="tset"), "test is 'tset', but .* has the splits train, test; did you mean 'test'"),
        (dict(train="70%", validation="10%", test="20%"), "has splits: instead of shares, give --config"),
        (dict(channels=2), "channels is 2, but must be 1, 3 or 4"),
    ],
)
def test_a_mistake_is_one_message(hf, tmp_path, fields, message):
    hf.DatasetDict(train=make_split(hf, 20), test=make_split(hf, 4)).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=message):
        sources.open_dataset(make_config(**dict(root=tmp_path) | fields))


@pytest.mark.nightly
def test_splits_without_classes_and_empty_folders_are_refused(hf, tmp_path):
    hidden = make_split(hf, 4).remove_columns("label").add_column("label", [-1] * 4)
    hidden = hidden.cast_column("label", hf.ClassLabel(names=["ant", "bee"]))
    hf.DatasetDict(train=make_split(hf, 20), test=hidden).save_to_disk(tmp_path / "hidden")
    with pytest.raises(UserError, match="test: 4 examples have no class, the first is"):
        sources.open_dataset(make_config(tmp_path / "hidden"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded: "):
        sources.open_dataset(make_config(tmp_path / "empty"))


@pytest.mark.nightly
def test_a_run_resumes_on_a_copy_and_on_no_other_data(hf, tmp_path, console):
    hf.DatasetDict(train=make_split(hf, 24), test=make_split(hf, 6)).save_to_disk(tmp_path / "one")
    hf.DatasetDict(train=make_split(hf, 24), test=make_split(hf, 6, "xy")).save_to_disk(tmp_path / "renamed")
    other = make_split(hf, 24).select([*range(23), 0])
    hf.DatasetDict(train=other, test=make_split(hf, 6)).save_to_disk(tmp_path / "other")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    config = recipes.get_config("lenet5", "hf")
    config.model.width = 0.25
    config.update({"duration": "2 steps", "batch_size": 8})
    config.optim.schedule.warmup = "0 steps"
    config.data.update(dict(channels=1, mean=(0.5,), std=(0.5,)))
    config.log.trackers = ""
    losses = []
    for name in ("one", "copy"):
        config.data.dir = str(tmp_path / name)
        losses.append(loop.run(config, tmp_path / "run", Options(console=console))["test"]["loss"])
    assert losses[0] == losses[1]
    config.data.dir = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"holds a run on other data:\n.*digest"):
        loop.run(config, tmp_path / "run", Options(console=console))
    config.data.dir = str(tmp_path / "renamed")
    with pytest.raises(UserError, match="has other classes than the train part"):
        loop.run(config, tmp_path / "run", Options(console=console))


@pytest.mark.nightly
def test_a_damaged_picture_is_named_or_skipped(hf, tmp_path):
    split = make_split(hf, 20)
    rows = split.cast_column("image", hf.Image(decode=False))[:]
    rows["image"][7] = {"bytes": b"no picture", "path": None}
    rows["image"][9] = None
    damaged = hf.Dataset.from_dict(rows, features=split.features)
    hf.DatasetDict(train=split, test=damaged).save_to_disk(tmp_path)
    source = sources.open_dataset(make_config(tmp_path)).parts["test"]
    for index in (7, 9):
        with pytest.raises(UserError, match=f"test, example {index}"):
            np.asarray(source.read([index])[0]["image"])
