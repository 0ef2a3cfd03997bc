"""Examples that the words of a command line name."""

import os

import numpy as np
import pytest
from PIL import Image

from cnn_jax.core.errors import UserError
from cnn_jax.data.find import find


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (
        "p/ants/10.jpg",
        "p/ants/9.jpg",
        "p/bees/more/a.PNG",
        "p/top.jpeg",
        "p/notes.txt",
        "p/.hidden/b.jpg",
        "p/.c.jpg",
    )
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


def named(words, axes=2):
    return [(example.file.as_posix(), example.group) for example in find(words, axes).found]


FOLDER = [("p/ants/9.jpg", "ants"), ("p/ants/10.jpg", "ants"), ("p/bees/more/a.PNG", "bees"), ("p/top.jpeg", "")]


def test_a_folder_has_all_pictures_below_it_in_natural_order(photos):
    assert named(["p"]) == named(["p/"]) == FOLDER


def test_words_keep_their_order_and_count_once(photos):
    assert named(["p/top.jpeg", "p/notes.txt"]) == [
        ("p/top.jpeg", ""),
        ("p/notes.txt", ""),
    ]  # a file is taken at its word
    assert named(["p/top.jpeg", "p", "p/top.jpeg"]) == [FOLDER[-1], *FOLDER[:-1]]


def test_patterns_find_only_pictures_and_folders(photos):
    assert [file for file, _ in named(["p/*"])] == ["p/ants/9.jpg", "p/ants/10.jpg", "p/bees/more/a.PNG", "p/top.jpeg"]
    assert [file for file, _ in named(["p/**/*.jpg"])] == ["p/ants/9.jpg", "p/ants/10.jpg"]
    assert [file for file, _ in named(["p/ants/[0-9].jpg"])] == ["p/ants/9.jpg"]


def test_what_is_left_out_is_named(photos):
    assert find(["p"]).note == "left out: 1 file of other kinds (notes.txt)"
    assert find(["p/*"]).note == "left out: 1 file of other kinds (notes.txt)"
    assert find(["p", "p/notes.txt"]).note == find(["p/ants"]).note == ""


def test_links_are_followed_and_loops_end(photos):
    (photos / "store").mkdir()
    (photos / "store" / "x.jfif").write_bytes(b"")
    (photos / "p" / "far").symlink_to(photos / "store")
    for name in ("up", "again"):
        (photos / "p" / "ants" / name).symlink_to(photos / "p")
    found = [*FOLDER[:3], ("p/far/x.jfif", "far"), FOLDER[3]]
    assert named(["p"]) == found
    assert sorted(file for file, _ in named(["**/*.j*"])) == [
        "p/ants/10.jpg",
        "p/ants/9.jpg",
        "p/top.jpeg",
        "store/x.jfif",
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    (photos / "a[1].png").write_bytes(b"")
    assert named(["a[1].png"]) == [("a[1].png", "")]


def test_clips_are_folders_of_frames_or_arrays(photos):
    Image.new("L", (4, 4)).save(photos / "f.png")
    for name in ("c/run/a/1.png", "c/run/a/2.png", "c/walk/b.npy", "c/walk/deep/1.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"")
    np.save(photos / "c/walk/b.npy", np.zeros((2, 4, 4), np.uint8))
    assert named(["c"], axes=3) == [("c/run/a", "run"), ("c/walk/b.npy", "walk"), ("c/walk/deep", "walk")]
    assert named(["c"], axes=1) == [("c/walk/b.npy", "walk")]
    assert named(["c/run/a"], axes=3) == [("c/run/a", "")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.jpg"], "there is no file or folder 'no.jpg'"),
        (["p/tops.jpeg"], "did you mean 'p/top.jpeg'"),
        (["empty"], "empty has no images (.jpg, .jpeg, .jfif, .png, .webp, .bmp, .tif, .tiff, .gif)"),
        (["p", "*.gif"], "no file matches '*.gif'"),
        (["p/*.txt"], ".tiff, .gif) are among the 1 that match 'p/*.txt'"),
    ],
)
def test_words_that_name_nothing_are_refused(photos, words, message):
    with pytest.raises(UserError) as refused:
        find(words)
    assert message in str(refused.value)


def test_a_folder_that_cannot_be_read_is_named(photos, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("ants"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="ants cannot be read: Permission denied"):
        find(["p"])
