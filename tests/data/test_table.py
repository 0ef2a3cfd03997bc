"""Tables of pictures and classes: what the rows say is what is read, and every mistake names its line."""

import csv
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources, splits
from cnn_jax.data.sources import table
from cnn_jax.eval import score
from cnn_jax.pretrained.source import open_source
from cnn_jax.training import loop
from cnn_jax.training.session import Options

PARTS = ("train", "validation", "test")
SHARES = dict(train="50%", validation="25%", test="25%")


def pictures(root, count):
    """Makes the grey pictures 0.png, 1.png, ..., of which picture i has the value i, and returns their names."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), i).save(root / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def write(file, rows, delimiter=","):
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text, delimiter=delimiter).writerows(rows)
    return file


def make_config(file, **fields):
    config = get_config("table").data
    config.dir, config.channels = str(file), 1
    config.update(fields)
    return config


def contents(source):
    """Returns [(value of the picture, label), ...]."""
    return [(int(np.asarray(e["image"])[0, 0, 0]), e["label"]) for e in source.read(range(len(source)))]


def test_the_split_column_names_the_parts(tmp_path):
    names = pictures(tmp_path / "deep", 6)
    rows = [("split", "Class", "file"), *zip(PARTS * 2, ("bee", "ant", "ant", "ant", "bee", "bee"), names, strict=True)]
    rows = [row if i == 0 else (*row[:2], f"deep/{row[2]}") for i, row in enumerate(rows)]
    found = sources.open_dataset(make_config(write(tmp_path / "t.csv", rows)))
    assert found.class_names == ["ant", "bee"]
    assert {part: contents(source) for part, source in found.parts.items()} == {
        "train": [(0, 1), (3, 0)],
        "validation": [(1, 0), (4, 1)],
        "test": [(2, 0), (5, 1)],
    }
    assert dataset.name(found.parts["test"], 1) == str(tmp_path / "deep" / "5.png")


def test_val_alone_is_the_test_part_and_train_validates(tmp_path):
    names = pictures(tmp_path, 30)
    rows = [("path", "label", "split"), *((name, i % 2, "train" if i < 20 else "val") for i, name in enumerate(names))]
    found = sources.open_dataset(make_config(write(tmp_path / "t.tsv", rows, "\t")))
    assert found.chosen == {"train": "train[:90%]", "validation": "train[90%:]", "test": "val"}
    train, validation, test = (contents(found.parts[part]) for part in PARTS)
    assert sorted(train + validation) == [(i, i % 2) for i in range(20)] and len(validation) == 2
    assert test == [(i, i % 2) for i in range(20, 30)]


def test_without_splits_parts_are_shares_of_all_rows(tmp_path):
    names = pictures(tmp_path, 40)
    file = write(tmp_path / "t.csv", [("image", "label"), *((name, i % 11) for i, name in enumerate(names))])
    found = sources.open_dataset(make_config(file, **SHARES))
    assert found.class_names == [str(i) for i in range(11)]  # 10 is the last
    together = [one for part in PARTS for one in contents(found.parts[part])]
    assert sorted(together) == [(i, i % 11) for i in range(40)]
    assert [len(found.parts[part]) for part in PARTS] == [20, 10, 10]
    with pytest.raises(UserError, match=r"has no column 'split': say which part is what, such as --config.data.train"):
        sources.open_dataset(make_config(file))


def test_parquet_has_the_rows_of_the_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = pictures(tmp_path, 8)
    parts = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    columns = {"path": names, "label": [i % 3 for i in range(8)], "split": parts}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    write(tmp_path / "t.csv", [list(columns), *zip(*columns.values(), strict=True)])
    one, other = (sources.open_dataset(make_config(tmp_path / f"t.{end}")) for end in ("parquet", "csv"))
    assert one.class_names == other.class_names == ["0", "1", "2"] and one.digest() == other.digest()
    for part in PARTS:
        assert contents(one.parts[part]) == contents(other.parts[part])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'cnn-jax\[parquet\]', or save the table as \.csv"):
        table.read(tmp_path / "t.parquet")


def test_a_damaged_parquet_file_is_one_message(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet: "):
        table.read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: its first line must name the columns"),
        ("path,label\n", "has no rows"),
        ("path,kind\n0.png,a\n", r"no column of the class \(label, class\), but path, kind: name .*\('path','kind'\)"),
        ("path,file,label\n0.png,1.png,a\n", "several columns of the picture"),
        ("path,label,label\n0.png,a,b\n", "two columns of one name"),
        ("path,label\n0.png,a\n1.png\n", "line 3 has 1 values, but the first line 2"),
        ("path,label\n0.png,a\n\n1.png, \n", "line 4 has no class"),
        ("path,label,split\n0.png,a,train\n1.png,a,\n", "line 3 has no split"),
        ("path,label\n0.png,a\n0.png,b\n", r"line 3 has the picture '0\.png' of line 2 again"),
        ('path,label\n0.png,a\n1.png,"b\n', "line 3 cannot be read: unexpected end of data"),
        (b"path,label\n0.png,\xff\n", "invalid start byte: save it as UTF-8"),
    ],
)
def test_a_mistake_names_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        table.read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dir=""), r"name the table: --config\.data\.dir=FILE\.csv"),
        (dict(dir="/nowhere/t.csv"), "there is no such file"),
        (dict(dir="/nowhere/t.txt"), r"must be a table: \.csv, \.tsv, \.parquet"),
        (dict(dir="gs://bucket/t.csv"), "must be a folder: its URL is not read"),
        (dict(columns=("photo", "label")), r"columns has 'photo', but .* has path, label, split"),
        (dict(test="tset"), r"test is 'tset', but .* has the splits train, test; did you mean 'test'"),
        (dict(validation="train[:50%]"), "share examples"),
        (dict(SHARES, train="60%"), "must add up to 100%"),
    ],
)
def test_a_part_or_a_column_that_is_not_there(tmp_path, fields, message):
    rows = [("path", "label", "split"), ("0.png", "a", "train"), ("1.png", "b", "train"), ("2.png", "a", "test")]
    pictures(tmp_path, 3)
    with pytest.raises(UserError, match=message):
        sources.open_dataset(make_config(write(tmp_path / "t.csv", rows), **fields))


@pytest.mark.parametrize("name", ["../no.png", "a" * 5000, "nul\0.png", "http://x.org/a.png", "."])
def test_pictures_that_are_not_there_are_named_in_one_message(tmp_path, name):
    pictures(tmp_path, 1)
    rows = [("path", "label"), ("0.png", "a"), (name, "b"), ("gone.png", "b")]
    with pytest.raises(UserError, match=r"2 of 3 pictures are not there \(line 3: .*; line 4: gone\.png\)"):
        file = write(tmp_path / "t.csv", rows)
        sources.open_dataset(make_config(file, train="100%", validation="0%", test="0%"), needed=("train",))


def test_a_class_that_training_lacks_is_refused(tmp_path):
    pictures(tmp_path, 3)
    rows = [("path", "label", "split"), ("0.png", "cat", "train"), ("1.png", "dog", "train"), ("2.png", "cta", "test")]
    with pytest.raises(UserError, match=r"the class 'cta' of 2\.png is none of the train part's; did you mean 'cat'"):
        sources.open_dataset(make_config(write(tmp_path / "t.csv", rows)))


def test_paths_may_be_absolute_or_above_the_table(tmp_path):
    pictures(tmp_path, 2)
    (tmp_path / "lists").mkdir()
    rows = [("path", "label"), ("../0.png", "a"), (tmp_path / "1.png", "b")]
    found = sources.open_dataset(
        make_config(write(tmp_path / "lists" / "t.csv", rows), train="100%", validation="0%", test="0%"),
        needed=("train",),
    )
    assert contents(found.parts["train"]) == [(0, 0), (1, 1)]


def test_the_digest_is_that_of_pictures_and_classes(tmp_path):
    def digest(root):
        return sources.open_dataset(make_config(root / "t.csv", **SHARES)).digest()

    names = pictures(tmp_path / "one", 8)
    rows = [("path", "label"), *((name, "ab"[i % 2]) for i, name in enumerate(names))]
    write(tmp_path / "one" / "t.csv", rows)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    before = digest(tmp_path / "one")
    assert digest(tmp_path / "copy") == before
    write(tmp_path / "copy" / "t.csv", [rows[0], *((name, "b" if name == "0.png" else c) for name, c in rows[1:])])
    assert digest(tmp_path / "copy") != before
    Image.new("L", (8, 8), 200).save(tmp_path / "one" / "3.png")
    assert digest(tmp_path / "one") != before


def test_a_run_on_a_table_resumes_on_a_copy_and_no_other(tmp_path, console):
    names = pictures(tmp_path / "data", 24)
    rows = [("path", "label"), *((name, "dark" if i < 12 else "light") for i, name in enumerate(names))]
    file = write(tmp_path / "data" / "t.csv", rows)
    config = recipes.get_config("lenet5", "table")
    config.model.width = 0.25
    config.update({"duration": "2 steps", "batch_size": 8})
    config.optim.schedule.warmup = "0 steps"
    config.data.update(dict(SHARES, dir=str(file), channels=1, mean=(0.5,), std=(0.5,)))
    config.log.trackers = ""
    first = loop.run(config, tmp_path / "run", Options(console=console))
    assert first["test"]["examples"] == 6
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    config.data.dir = str(tmp_path / "moved" / "t.csv")
    assert loop.run(config, tmp_path / "run", Options(console=console))["test"]["loss"] == first["test"]["loss"]
    swapped = [rows[0], *((name, "light" if label == "dark" else "dark") for name, label in rows[1:])]
    write(tmp_path / "moved" / "t.csv", swapped)
    with pytest.raises(UserError, match=r"holds a run on other data:\n.*digest"):
        loop.run(config, tmp_path / "run", Options(console=console))


def test_a_network_is_evaluated_on_a_table(tmp_path):
    lenet = open_source("bundled:lenet5-digits")
    examples = splits.Splits(recipes.get_config("lenet5").data, 0).parts["test"].source.read(range(20))
    rows = [("scan", "digit")]
    for i, example in enumerate(examples):
        Image.fromarray(example["image"][..., 0]).save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", example["label"]))
    file = write(tmp_path / "t.csv", rows)
    overrides = ["data.columns=('scan','digit')"]
    found = score.predict(lenet, score.configuration(lenet, str(file), overrides).config)["test"]
    assert found.labels.tolist() == [example["label"] for example in examples]
    assert (found.probabilities.argmax(1) == found.labels).mean() > 0.9
    with pytest.raises(UserError, match="there is no such folder or table"):
        score.configuration(lenet, "gone.csv")
