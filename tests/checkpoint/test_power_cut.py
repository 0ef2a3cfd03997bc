"""A power cut at any moment leaves a complete checkpoint: after each operation, everything a disk may lose is lost."""

import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from cnn_jax.checkpoint import saver
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver


class Disk:
    """The content of a folder that survives a power cut.

    A file has the content of its last fsync, or none. A folder has the names of its last fsync; later changes of names
    may all have reached the disk as well.
    """

    def __init__(self, root: Path):
        self.root = root
        self.contents: dict[int, bytes] = {}  # inode -> content
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}  # inode -> name -> (inode, whether a folder)
        self.cuts = []

    def sync(self, descriptor):
        found = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.names[found.st_ino] = self._listing(path)
        else:
            self.contents[found.st_ino] = path.read_bytes()

    def _listing(self, path):
        return {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}

    def cut(self):
        """Records what a cut would leave now: with the names of the last fsync, and with the current ones."""
        present = {place.stat().st_ino: self._listing(place) for place in [self.root, *self.root.rglob("*/")]}
        contents = dict(self.contents)
        self.cuts += [(dict(self.names), contents), (present, contents)]

    def restore(self, number, to):
        """Writes what is left after a cut into the folder `to`."""
        names, contents = self.cuts[number]

        def make(inode, place):
            place.mkdir()
            for name, (inner, is_folder) in names.get(inode, {}).items():
                if is_folder:
                    make(inner, place / name)
                else:
                    (place / name).write_bytes(contents.get(inner, b""))

        make(self.root.stat().st_ino, to)


@pytest.mark.slow
def test_a_power_cut_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    root = tmp_path / "run"
    root.mkdir()
    disk, sync = Disk(root), os.fsync
    whole = []  # the number of the first cut after each save

    def synced(descriptor):
        sync(descriptor)
        disk.sync(descriptor)
        disk.cut()

    def before(function):
        def call(*arguments, **options):
            disk.cut()
            found = function(*arguments, **options)
            disk.cut()
            return found

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", before(Path.rename))
    monkeypatch.setattr(saver.shutil, "rmtree", before(shutil.rmtree))
    with Saver(Checkpoints(root), keep=1) as saved:
        for step in (1, 2, 3):
            saved.save(step, {"x": jnp.arange(8.0) + step}, error=None)
            saved.wait()
            whole.append(len(disk.cuts))
    monkeypatch.undo()
    assert len(disk.cuts) > 40
    for number in range(whole[0], len(disk.cuts)):
        left = tmp_path / str(number)
        disk.restore(number, left)
        assert Checkpoints(left).latest(lambda text: None) >= sum(end <= number for end in whole), number
        shutil.rmtree(left)


def test_the_disk_of_this_test_does_lose_what_is_not_synced(tmp_path, monkeypatch):
    """Otherwise the test above would prove nothing."""
    root = tmp_path / "run"
    root.mkdir()
    disk = Disk(root)
    (root / "a").write_text("x")
    disk.cut()
    disk.restore(0, tmp_path / "synced")
    disk.restore(1, tmp_path / "present")
    assert os.listdir(tmp_path / "synced") == [] and (tmp_path / "present" / "a").read_bytes() == b""


@pytest.mark.parametrize("name", ["008", "\u0669\u0669", "x.partial", "5", "1e3"])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_stray_entry_disturbs_no_run(tmp_path, name, kind):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(3, {"x": jnp.arange(8.0)}, error=0.5)
    stray = tmp_path / "checkpoints" / name
    if kind == "folder":
        stray.mkdir()
    elif kind == "link":
        stray.symlink_to(tmp_path)
    else:
        stray.write_text("")
    said = []
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest(said.append, tidy=True) == 3 and checkpoints.best() == 3 and tmp_path.is_dir()
    words = {"x.partial": [], "5": ["the checkpoint of step 5 is damaged"]}.get(name, [f"{name} is not read"])
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said, strict=True))
    assert Checkpoints(tmp_path).steps() == [3]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"files": []}', '{"error": "x", "files": {}}', '{"error": NaN, "files": {}}', "[" * 10**5],
)
def test_a_damaged_manifest_is_a_damaged_checkpoint(tmp_path, text):
    with Saver(Checkpoints(tmp_path), keep=2) as saved:
        for step in (1, 2):
            saved.save(step, {"x": jnp.arange(8.0)}, error=0.5)
    (tmp_path / "checkpoints" / "2" / "manifest.json").write_text(text)
    said = []
    assert Checkpoints(tmp_path).latest(said.append) == Checkpoints(tmp_path).best() == 1
    assert said == ["the checkpoint of step 2 is damaged: manifest.json cannot be read"]


def test_a_manifest_leads_to_no_other_file(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, {"x": jnp.arange(8.0)}, error=None)
    manifest = tmp_path / "checkpoints" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"files": {', '"files": {"../../x": {"bytes": 1, "sha256": ""},'))
    assert Checkpoints(tmp_path).damage(1) == "../../x is missing"
    os.mkfifo(tmp_path / "checkpoints" / "1" / "pipe")
    manifest.write_text(manifest.read_text().replace("../../x", "pipe").replace('1, "sha256": ""', '0, "sha256": ""'))
    assert "pipe has changed" in Checkpoints(tmp_path).damage(1)
