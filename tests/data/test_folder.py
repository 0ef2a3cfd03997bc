import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.analysis import layer_sheets
from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import augment, sources, splits
from cnn_jax.data.order import Order
from cnn_jax.data.sources import folder
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import evaluate_run
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build

PARTS = ("train", "validation", "test")
SHARES = dict(train="50%", validation="25%", test="25%")


def pictures(root, counts, suffix=".png"):
    """Makes counts[class folder] pictures of 8x8 in each class folder, all different, and returns `root`."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (8, 8), 100 * number + i).save(root / name / f"{i}{suffix}", "PNG")
    return root


def make_config(root, **fields):
    config = get_config("folder").data
    config.dir, config.channels = str(root), 1
    config.update(fields)
    return config


def names(listing, root):
    return [str(path.relative_to(root)) for path in listing.files]


# ---------------------------------------------------------------- listing


def test_pictures_are_sorted_by_class_and_path_and_other_files_counted(tmp_path):
    pictures(tmp_path, {"b": 1, "a": 2, "a/more": 1})
    (tmp_path / "a" / ".ipynb_checkpoints").mkdir()
    for name in ("a/.ipynb_checkpoints/0.png", "a/notes.txt", "a/.hidden.png", "a/Thumbs.db", "b/X.PNG"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".git").mkdir()
    found = folder.list_classes(tmp_path)
    assert found.class_names == ["a", "b"] and found.others == 1
    assert names(found, tmp_path) == ["a/0.png", "a/1.png", "a/more/0.png", "b/0.png", "b/X.PNG"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]


def test_parts_with_separate_folders(tmp_path):
    pictures(tmp_path / "train", {"ants": 6, "bees": 4})
    pictures(tmp_path / "val", {"bees": 2})  # a part need not have every class
    found, _, others = folder.list_parts(make_config(tmp_path), PARTS)
    train, validation, test = (found[part] for part in PARTS)
    assert (len(train.files), len(validation.files), others) == (9, 1, 0)
    assert not set(train.files) & set(validation.files)
    assert test.class_names == ["ants", "bees"] and test.labels.tolist() == [1, 1]
    again, _, _ = folder.list_parts(make_config(tmp_path), PARTS)
    assert again["train"].files == train.files


def test_parts_as_shares_of_one_folder_are_disjoint_complete_and_mixed(tmp_path):
    pictures(tmp_path, {"a": 40, "b": 40})
    found, _, _ = folder.list_parts(make_config(tmp_path, **SHARES), PARTS)
    together = [path for part in PARTS for path in found[part].files]
    assert len(together) == len(set(together)) == 80
    assert [len(found[part].files) for part in PARTS] == [40, 20, 20]
    assert all(5 < found["test"].labels.tolist().count(label) < 15 for label in (0, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dir=""), "name the folder of images: --config.data.dir"),
        (dict(dir="/nowhere"), "there is no such folder"),
        (dict(train="trian"), r"config.data.train is 'trian', but must name a folder in .*did you mean 'train'\?"),
        (dict(train="70%"), "config.data.train is '70%', but must name a folder"),
        (dict(train="train[90%:10%]"), "from a lower to a higher share"),
        (dict(train="train[90:]"), r"config.data.train is 'train\[90:\]', but must name a folder"),
        (dict(train="./train[:90%]", validation="train/[80%:]"), "share examples"),
        (
            dict(train="train[:90%]", validation="train[80%:]"),
            "'train\\[:90%\\]' and config.data.validation 'train\\[80%:\\]' share examples",
        ),
        (dict(train="50%", validation="20%", test="20%"), "50%, 20%, 20%: they must add up to 100%"),
    ],
)
def test_impossible_parts_are_one_message(tmp_path, fields, message):
    pictures(tmp_path / "train", {"a": 5, "b": 5})
    pictures(tmp_path / "val", {"a": 1})
    with pytest.raises(UserError, match=message):
        folder.list_parts(make_config(tmp_path, **fields), PARTS)


def test_missing_empty_and_unknown_classes_are_errors(tmp_path):
    with pytest.raises(UserError, match="has no class folders"):
        folder.list_classes(tmp_path)
    pictures(tmp_path, {"ants": 2, "bees": 0})
    with pytest.raises(UserError, match=r"the class folder .*bees has no images \(.jpg, .jpeg, .jfif, .png, .webp, "):
        folder.list_classes(tmp_path)
    with pytest.raises(UserError, match=r"ants is of no class of the train part; did you mean 'antz'\?"):
        folder.list_classes(tmp_path, ["antz", "bees"])


def test_links_are_followed_and_loops_end(tmp_path):
    root = pictures(tmp_path / "data", {"a": 2, "b": 1})
    pictures(tmp_path / "store", {"c": 2})
    (root / "b" / "same.png").symlink_to(root / "a" / "0.png")
    (root / "b" / "file.png").symlink_to(tmp_path / "store" / "c" / "0.png")
    (root / "b" / "more").symlink_to(tmp_path / "store" / "c")
    (root / "c").symlink_to(tmp_path / "store" / "c")
    for loop in (root / "b" / "up", root / "b" / "here"):
        loop.symlink_to(root if loop.name == "up" else root / "b")
    found = folder.list_classes(root)
    assert found.class_names == ["a", "b", "c"] and np.bincount(found.labels).tolist() == [2, 5, 2]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    root = pictures(tmp_path, {"a": 2, "b": 1})
    for target in ("gone.png", "b/link.png"):
        link = root / "b" / "link.png"
        link.symlink_to(root / target)
        with pytest.raises(UserError, match=r"link\.png is a link to .*, which is not there"):
            folder.list_classes(root)
        link.unlink()


@pytest.mark.parametrize("place", ["train", "train/b"])
def test_a_part_or_a_class_may_be_a_link(tmp_path, place):
    pictures(tmp_path / "store", {"a": 10, "b": 10})
    root = tmp_path / "data"
    pictures(root / "train", {"a": 10}) if place == "train/b" else root.mkdir()
    pictures(root / "val", {"a": 1})
    (root / place).symlink_to(tmp_path / "store" / ("b" if place == "train/b" else ""))
    found, _, _ = folder.list_parts(make_config(root), PARTS)
    assert [len(found[part].files) for part in PARTS] == [18, 2, 1]


@pytest.mark.parametrize(
    ("folders", "chosen"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("train", "val"), ("train[:90%]", "train[90%:]", "val")),
        (("train", "test"), ("train[:90%]", "train[90%:]", "test")),
        (("training", "valid", "testing"), ("training", "valid", "testing")),
    ],
)
def test_parts_are_taken_by_their_names(tmp_path, folders, chosen):
    for name in folders:
        pictures(tmp_path / name, {"a": 10, "b": 10})
    opened = sources.open_dataset(make_config(tmp_path))
    assert tuple(opened.chosen.values()) == chosen
    assert all(f"{part}: {text}" in opened.description for part, text in zip(PARTS, chosen, strict=True))


def test_folders_that_are_not_a_part_are_named(tmp_path):
    for name in ("train", "val", "extra"):
        pictures(tmp_path / name, {"a": 10, "b": 10})
    assert sources.open_dataset(make_config(tmp_path)).description.endswith("folders that are left out: extra")
    pictures(tmp_path / "other", {"a": 10, "b": 10})
    with pytest.raises(UserError, match=r"has no folders train and val or test, but a, b\. If these are the classes"):
        sources.open_dataset(make_config(tmp_path / "other"))


def test_names_in_both_unicode_forms_are_one_class(tmp_path):
    pictures(tmp_path / "train", {"caf\u00e9": 10, "tea": 10})
    pictures(tmp_path / "val", {"cafe\u0301": 3})
    opened = sources.open_dataset(make_config(tmp_path))
    assert opened.class_names == ["caf\u00e9", "tea"] and opened.parts["test"].labels.tolist() == [0, 0, 0]
    pictures(tmp_path / "train", {"cafe\u0301": 1})
    with pytest.raises(UserError, match="differ in their Unicode normal form only"):
        folder.list_classes(tmp_path / "train")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that digests of files are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cnn_jax" / folder.CACHE


def digest(root):
    return folder.digest(root, sorted(root.rglob("*.png")))


def test_a_copy_of_the_data_is_the_same_data(tmp_path, cache):
    root = pictures(tmp_path / "one", {"a": 3, "b": 3})
    first = digest(root)
    shutil.copytree(root, tmp_path / "another")
    assert digest(tmp_path / "another") == digest(root) == first and len(list(cache.iterdir())) == 2
    for left_over in cache.iterdir():
        left_over.write_text("[")  # a damaged cache costs time only
    assert digest(root) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: a.rename(b.with_name("z.png")),
        lambda a, b: a.rename(a.with_name("z.png")),
        lambda a, b: a.write_bytes(b.read_bytes()),
        lambda a, b: (a.write_bytes(a.read_bytes()[::-1]), os.utime(a, ns=(0, 0))),
    ],
)
def test_different_data_of_equal_size_are_distinguished(tmp_path, cache, change):
    root = pictures(tmp_path / "one", {"a": 3, "b": 3})
    os.utime(root / "a" / "0.png", ns=(0, 0))
    before = digest(root)
    change(root / "a" / "0.png", root / "b" / "1.png")
    assert digest(root) != before


def test_very_large_data_are_compared_by_names_and_sizes(tmp_path, cache, monkeypatch):
    root = pictures(tmp_path / "one", {"a": 3, "b": 3})
    monkeypatch.setattr(folder, "MOST_READ", 100)
    before = digest(root)
    (root / "a" / "0.png").write_bytes((root / "a" / "0.png").read_bytes()[::-1])
    assert digest(root) == before and not cache.exists()


def clip(root, count, *, first=0, size=(8, 8)):
    """Makes a clip of `count` gray frames in the folder `root`: frame i is all `first` + i."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", size, first + i).save(root / f"frame{i}.png")
    return root


def test_clips_are_folders_of_frames_or_arrays_sequences_arrays(tmp_path):
    for name in ("a/one", "a/more/two", "b/three"):
        clip(tmp_path / name, 3)
    np.save(tmp_path / "b" / "four.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "b" / "notes.txt").write_text("")
    clips = folder.list_classes(tmp_path, axes=3)
    assert names(clips, tmp_path) == ["a/more/two", "a/one", "b/four.npy", "b/three"]
    assert clips.labels.tolist() == [0, 0, 1, 1] and clips.others == 1
    with pytest.raises(UserError, match=r"class folder .*a has no sequences \(.npy\)"):
        folder.list_classes(tmp_path, axes=1)
    np.save(tmp_path / "a" / "s.npy", np.zeros(8))
    sequences = folder.list_classes(tmp_path, axes=1)
    assert names(sequences, tmp_path) == ["a/s.npy", "b/four.npy"] and sequences.others == 10
    clip(tmp_path / "b", 2)
    with pytest.raises(UserError, match=r"frame0.png lies in the folder of a class: put the frames of each clip in a"):
        folder.list_classes(tmp_path, axes=3)


# ---------------------------------------------------------------- reading


def test_classes_come_from_the_folder_and_must_match_in_number(tmp_path):
    pictures(tmp_path, {"a": 8, "b": 8})
    assert sources.open_dataset(make_config(tmp_path, **SHARES)).class_names == ["a", "b"]
    with pytest.raises(UserError, match="num_classes is 10, but 'folder' has 2 classes"):
        sources.open_dataset(make_config(tmp_path, **SHARES, num_classes=10))


def test_a_pipe_among_the_pictures_is_reported_and_not_waited_for(tmp_path):
    pictures(tmp_path, {"a": 16, "b": 16})
    for part in ("a", "b"):
        for i in range(16):
            (tmp_path / part / f"{i}.png").unlink()
            os.mkfifo(tmp_path / part / f"{i}.png")
    with pytest.raises(UserError, match=r"[ab]/\d+.png: it is not a file, but a pipe"):
        list(make_part(tmp_path, train=True).train_batches(0, 1, 8))


def damage(root, *files):
    for name in files:
        (root / name).write_bytes(b"not a picture")


def make_part(root, *, train, **fields):
    options = (
        SHARES | dict(image_size=(8, 8), train_crop="resize", test_crop="resize", mean=(0.0,), std=(1.0,)) | fields
    )
    return splits.Splits(make_config(root, **options), seed=0).parts["train" if train else "test"]


@pytest.mark.parametrize("workers", [1, 4])
def test_an_unreadable_file_ends_training_and_is_named(tmp_path, workers):
    pictures(tmp_path, {"a": 16, "b": 16})
    damage(tmp_path, "a/3.png", "b/7.png", "b/8.png")
    with pytest.raises(UserError, match=r"[ab]/\d.png: it is no JPEG, PNG"):
        list(make_part(tmp_path, train=True, workers=workers).train_batches(0, 4, 8))


def test_a_file_skipped_in_training_is_replaced_and_counted_once(tmp_path):
    pictures(tmp_path, {"a": 16, "b": 16})
    whole = make_part(tmp_path, train=True)
    bad = whole.source.files[5]
    before = list(whole.train_batches(0, 4, 8))
    damage(tmp_path, bad)
    part = make_part(tmp_path, train=True, on_error="skip")
    after = list(part.train_batches(0, 4, 8))
    assert part.skipped == {5}
    order = Order(0, 16)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        index = order.indices(np.arange(8 * number, 8 * number + 8)).tolist()
        place = index.index(5) if 5 in index else None
        taken = [i if i != place else (place + 1 if place < 7 else 6) for i in range(8)]
        np.testing.assert_array_equal(new["image"], old["image"][taken])
        np.testing.assert_array_equal(new["label"], old["label"][taken])


def test_a_file_skipped_in_evaluation_has_no_weight(tmp_path):
    pictures(tmp_path, {"a": 16, "b": 16})
    part = make_part(tmp_path, train=False, on_error="skip")
    damage(tmp_path, part.source.files[0], part.source.files[6])
    masks = [batch["mask"].tolist() for batch in part.test_batches(5)]
    assert masks == [[0, 1, 1, 1, 1], [1, 0, 1, 0, 0]]
    for file in part.source.files:
        damage(tmp_path, file)
    assert not any(batch["mask"].any() for batch in part.test_batches(5))  # where a batch begins changes nothing


@pytest.mark.slow
def test_a_run_on_a_folder_takes_its_classes_and_resumes(tmp_path, console):
    root = pictures(tmp_path / "data", {"a": 16, "b": 16, "c": 16})
    damage(root, "a/3.png", "b/7.png", "c/1.png", "c/2.png")
    config = recipes.get_config("lenet5", "folder")
    config.model.width = 0.25
    config.batch_size = config.eval.batch_size = 8
    config.duration, config.log.every, config.eval.every = "6 steps", "3 steps", "3 steps"
    config.log.trackers = ""
    config.data.update(SHARES | dict(dir=str(root), channels=1, image_size=(28, 28), mean=(0.5,), std=(0.5,)))
    config.data.on_error = "skip"
    config.lock()
    with pytest.raises(UserError, match="num_classes is 0"):
        layer_sheets.trace(config)
    assert build(config).config.data.num_classes == 3 and config.data.num_classes == 0
    train.run(config, tmp_path / "run", Options(console=console))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["num_classes"] == 3
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    skipped = {
        kind: [r["skipped"] for r in records if r["kind"] == kind][-1] for kind in ("train", "validation", "test")
    }
    assert sum(skipped.values()) == 4
    test = records[-1]
    assert test["examples"] + test["skipped"] == 12
    train.run(config, tmp_path / "run", Options(console=console))  # all steps are done
    evaluate_run.evaluate_run(config, tmp_path / "run", "latest", console=console)


# ---------------------------------------------------------------- clips and sequences


def make_clips(root, counts, frames=9):
    """Makes clips of `frames` frames: even ones as folders, odd ones as arrays; frame t of all is `first` + t."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            first = 100 * number + 10 * i
            if i % 2:
                (root / name).mkdir(parents=True, exist_ok=True)
                frame = np.arange(first, first + frames, dtype=np.uint8)
                np.save(root / name / f"{i}.npy", np.broadcast_to(frame[:, None, None], (frames, 8, 8)))
            else:
                clip(root / name / str(i), frames, first=first)
    return root


@pytest.mark.parametrize("frames", [9, 12])  # from 10 on, natural order is not alphabetical order
def test_consecutive_frames_are_taken_by_position(tmp_path, frames):
    make_clips(tmp_path, {"a": 6, "b": 6}, frames)
    options = dict(image_size=(4, 8, 8), augment=())
    train, again = (make_part(tmp_path, train=True, workers=workers, **options) for workers in (1, 3))
    starts = set()
    for one, other in zip(train.train_batches(0, 8, 3), again.train_batches(0, 8, 3), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert one["image"].shape == (3, 4, 8, 8, 1) and one["image"].dtype == np.uint8
        for example, label in zip(one["image"], one["label"], strict=True):
            values = example[:, 0, 0, 0].astype(int)
            assert (example == example[:, :1, :1]).all() and np.diff(values).tolist() == [1, 1, 1]
            assert values[0] // 100 == label
            starts.add(values[0] % 10)
    assert len(starts) >= 5  # of frames - 3
    test = make_part(tmp_path, train=False, **options)
    (batch,) = test.test_batches(3)
    assert (batch["image"][:, 0, 0, 0, 0] % 10).tolist() == [(frames - 4) // 2] * 3


def test_frames_are_resized_as_pictures_are(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name / "one").mkdir(parents=True)
        for i, frame in enumerate(noise):
            Image.fromarray(frame).save(tmp_path / name / "one" / f"{i}.png")
        for i in range(3):
            np.save(tmp_path / name / f"{i}.npy", noise)
    options = dict(image_size=(2, 10, 12), channels=3, augment=(), mean=(0.0,) * 3, std=(1.0,) * 3)
    (batch,) = make_part(tmp_path, train=False, **options).test_batches(2)
    expected = [Image.fromarray(frame).resize((12, 10), Image.Resampling.BILINEAR) for frame in noise[2:4]]
    for example in batch["image"]:
        np.testing.assert_array_equal(example, np.stack([np.asarray(frame) for frame in expected]))


def test_a_damaged_or_short_clip_is_an_error_or_skipped(tmp_path):
    make_clips(tmp_path, {"a": 4, "b": 4})
    options = dict(image_size=(4, 8, 8), augment=())

    def read(**fields):
        return list(make_part(tmp_path, train=True, **options, **fields).train_batches(0, 2, 4))

    read()
    for file in sorted(tmp_path.glob("*/*")):
        if file.is_dir():
            for frame in list(file.iterdir())[:6]:
                frame.unlink()
    with pytest.raises(UserError, match=r"/[ab]/[02]: it has 3 steps or frames, but .* begins with 4"):
        read()
    assert all((batch["image"].shape == (4, 4, 8, 8, 1)) for batch in read(on_error="skip"))
    for file in sorted(tmp_path.glob("*/*")):
        if file.is_dir():
            clip(file, 9)
            Image.new("L", (9, 8)).save(file / "frame4.png")
    with pytest.raises(UserError, match=r"frame\d.png: it has \dx\d pixels, but frame\d.png of the same clip"):
        read()
    for file in tmp_path.glob("*/*/frame*.png"):
        file.write_bytes(b"text")
    with pytest.raises(UserError, match=r"frame\d.png: it is no JPEG, PNG"):
        read()


def test_sequences_are_standardized_by_their_statistics(tmp_path):
    random = np.random.default_rng(0)
    values = random.normal(1000, 50, (12, 20, 2))
    for i, sequence in enumerate(values):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[i % 2] / f"{i}.npy", sequence)
    options = SHARES | dict(image_size=(20,), channels=2, mean=(), std=(), augment=(), train_crop="resize")
    data = splits.Splits(make_config(tmp_path, placement="device", test_crop="resize", **options), seed=0)
    images = data.parts["train"].resident["image"]
    assert images.dtype == np.float32 and images.shape == (6, 20, 2)
    wanted = values.astype(np.float32)[[int(file.stem) for file in data.parts["train"].source.files]]
    np.testing.assert_array_equal(images, wanted)
    found = augment.normalize(images, **data.normalization)
    expected = (wanted - wanted.mean((0, 1), np.float64)) / wanted.std((0, 1), np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    longer = splits.Splits(
        make_config(tmp_path, placement="device", test_crop="resize", **options | dict(image_size=(8,))), seed=0
    )
    np.testing.assert_array_equal(longer.parts["train"].resident["image"], wanted[:, 6:14])  # the middle


def short(config, root, **data):
    config.batch_size = config.eval.batch_size = 4
    config.duration = config.log.every = config.eval.every = "3 steps"
    config.log.trackers = ""
    config.data.update(SHARES | dict(dir=str(root)) | data)
    return config.lock()


@pytest.mark.slow
def test_c3d_trains_on_a_folder_of_clips(tmp_path, console):
    make_clips(tmp_path / "data", {"a": 8, "b": 8}, frames=18)
    config = recipes.get_config("c3d", "folder")
    config.model.update(width=0.03125, fc_sizes=(8,))
    size = dict(image_size=(16, 16, 16), channels=1, mean=(0.5,), std=(0.25,))
    config = short(config, tmp_path / "data", **size)
    config.duration = "1 steps"
    found = train.run(config, tmp_path / "run", Options(console=console))
    assert found["test"]["examples"] == 4 and np.isfinite(found["test"]["loss"])


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_conv1d_trains_on_a_folder_of_sequences(tmp_path, console, placement):
    random = np.random.default_rng(0)
    for i in range(32):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "data" / "ab"[i % 2] / f"{i}.npy", random.normal(20 * (i % 2), 1, 16))
    config = recipes.get_config("conv1d", "folder")
    config.model.channels = (4, 4)
    statistics = dict(mean=(10.0,), std=(10.0,)) if placement == "stream" else {}
    config = short(config, tmp_path / "data", placement=placement, image_size=(16,), **statistics)
    config.optim.learning_rate, config.duration, config.optim.schedule.warmup = 0.1, "30 steps", "2 steps"
    found = train.run(config, tmp_path / "run", Options(console=console))
    assert found["test"]["error"] == 0  # the classes differ by 20 deviations
