"""Files are written whole or not at all, through links, devices and pipes, and read as untrusted ones."""

import os
import stat
import threading
from pathlib import Path

import pytest

from cnn_jax.core import files
from cnn_jax.core.errors import StorageError, UserError


def test_a_file_is_written_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_text(path, "old")
    path.chmod(0o600)

    def full(descriptor):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "newer text")
    with pytest.raises(StorageError, match=r"x\.json cannot be written: no space"), files.written(path) as partial:
        partial.write_text("newer text")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.json"]
    monkeypatch.undo()
    files.write_text(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store" / "file")
    for text in ("first", "second"):
        files.write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "store" / "file").read_text() == text


def test_a_left_over_link_leads_to_no_other_file(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / "x.partial").symlink_to(tmp_path / "other")
    files.write_text(tmp_path / "x", "new")
    assert (tmp_path / "other").read_text() == "other" and (tmp_path / "x").read_text() == "new"


def test_a_device_stays_a_device():
    before = os.stat("/dev/null")
    with files.written(files.Path("/dev/null")) as partial:
        partial.write_bytes(b"x")
    assert os.stat("/dev/null").st_ino == before.st_ino and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(files.Path("/dev/full"), "x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_pipe_gets_what_is_written(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "text")
    reader.join(10)
    assert got == ["text"] and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


def test_an_open_file_is_added_to_and_not_replaced(tmp_path):
    with (tmp_path / "log").open("a") as log:
        log.write("before ")
        log.flush()
        files.write_text(files.Path(f"/dev/fd/{log.fileno()}"), "after")
    assert (tmp_path / "log").read_text() == "before after"


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    files.write_text(tmp_path / "x", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "x").read_bytes() == b"caf\xe9"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "x cannot be read: No such file"),
        (lambda path: path.mkdir(), "x cannot be read: (it is a folder|Is a directory)"),
        (os.mkfifo, "x cannot be read: it is a pipe, but must be a file"),
        (lambda path: path.symlink_to(path), "x cannot be read: Too many levels"),
        (lambda path: path.symlink_to("/dev/zero"), "x cannot be read: it is a device"),
        (lambda path: path.write_bytes(b"{}\xff"), "x is damaged: byte 2 is not UTF-8"),
        (lambda path: path.write_text(""), "x is damaged: it is empty"),
        (lambda path: path.write_text("[1,\n2"), r"x is damaged: it is not JSON \(line 2: Expecting"),
        (lambda path: path.write_text("1" * 5000), "x is damaged: Exceeds the limit"),
        (lambda path: path.write_text("[" * 100_000), "x is damaged: its JSON is nested too deep"),
    ],
)
def test_an_invalid_json_file_is_one_message(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / "x")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expanded("~/x") == files.Path("/home/me/x") and files.expanded("a/~") == files.Path("a/~")


@pytest.mark.parametrize("below", ["file/folder", 300 * "a"])
def test_a_folder_that_cannot_be_made_is_one_message(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"--output: .* cannot be made: (Not a directory|File name too long)"):
        files.make_folder(tmp_path / below, name=f"--output: {tmp_path / below}")


@pytest.mark.parametrize("name", ["proc", 300 * "a"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, name):
    path = Path("/proc/x.json") if name == "proc" else tmp_path / name
    with pytest.raises(
        StorageError, match=r"--json: .* cannot be written: (No such file|File name too long|Permission)"
    ):
        files.check_output(path, "--json")


def test_a_file_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "old").write_text("before")
    for path in (tmp_path / "old", tmp_path / "new", Path(os.devnull)):
        files.check_output(path, "--json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "before")]


def test_an_output_folder_is_tried_before_the_work_and_not_left(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "new" / "deep"):
        files.check_output_folder(path, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match=r"--output: .*file is a file: name a folder"):
        files.check_output_folder(tmp_path / "file", "--output")
    for path in (tmp_path / "file" / "x", tmp_path / (300 * "a"), Path("/proc/x/y")):
        with pytest.raises(StorageError, match=r"--output: .* cannot be made: "):
            files.check_output_folder(path, "--output")
