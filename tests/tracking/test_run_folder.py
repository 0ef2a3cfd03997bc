import errno
import json
import os

import pytest

from cnn_jax.config.compare import differences
from cnn_jax.core import files
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.tracking import run_folder


def test_the_configuration_is_stored_as_data(tmp_path, small_config):
    (tmp_path / "a" / "b").mkdir(parents=True)
    run_folder.prepare(small_config, tmp_path / "a" / "b", data={"name": "x"})
    stored = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert stored["model"]["name"] == "lenet5" and stored["data"]["image_size"] == [28, 28]
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"config.json", "data.json"}


def test_differences_show_both_values_and_leave_out_what_may_change():
    old = {"seed": 0, "log": {"every": "1 steps"}, "data": {"dir": "a", "name": "x"}, "gone": 1}
    new = {"seed": 1, "log": {"every": "2 steps"}, "data": {"dir": "b", "name": "x"}, "came": 2}
    assert differences(old, new) == [
        "  config.came: 'absent' in the folder, 2 now",
        "  config.gone: 1 in the folder, 'absent' now",
        "  config.seed: 0 in the folder, 1 now",
    ]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path, small_config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file/run cannot be made"), files.locked(tmp_path / "file/run"):
        pass


def test_a_file_is_written_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "newer text")
    assert path.read_text() == "old"


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path):
    holder = rf"run is in use by process {os.getpid()} on "
    with (
        files.locked(tmp_path / "run"),
        pytest.raises(UserError, match=holder),
        files.locked(tmp_path / "run"),
    ):
        pass
    with files.locked(tmp_path / "run"):
        pass


def test_other_data_of_the_same_name_are_refused_once_there_is_a_checkpoint(tmp_path, small_config):
    data = {"name": "mnist/3.0.1", "examples": {"train": 10}}
    run_folder.prepare(small_config, tmp_path, data=data)
    newer = data | {"name": "mnist/4.0.0"}
    run_folder.prepare(small_config, tmp_path, data=newer)  # nothing has been trained
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"name: 'mnist/4\.0\.0' in the folder, 'mnist/3\.0\.1' now"):
        run_folder.prepare(small_config, tmp_path, data=data)
    assert json.loads((tmp_path / "data.json").read_text()) == newer


def test_checkpoints_without_their_configuration_are_not_gone_on_from(tmp_path, small_config):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has checkpoints, but no config\.json"):
        run_folder.check_same(small_config, tmp_path)


@pytest.mark.parametrize(
    ("names", "has"), [((), False), (("5.partial",), False), (("5.damaged",), True), (("5.partial", "3"), True)]
)
def test_a_checkpoint_that_was_never_finished_is_none(tmp_path, names, has):
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run_folder.has_checkpoint(tmp_path) == has


def test_only_refusals_of_the_storage_become_its_error():
    with pytest.raises(StorageError, match=r"^it stops: No space left \(file\)$"), files.storage_errors("it stops"):
        raise OSError(errno.ENOSPC, "No space left", "file")
    with pytest.raises(StorageError, match=r"^it stops: No space left$"), files.storage_errors("it stops"):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing \"x\": Failed: No space left [os_error_code='28']")
    for defect in (FileNotFoundError(errno.ENOENT, "no such file"), ValueError("a: b")):
        with pytest.raises(type(defect)) as raised, files.storage_errors("it stops"):
            raise defect
        assert raised.value is defect


def test_the_mesh_may_change_when_a_run_goes_on():
    old, new = ({"mesh": {"model": n, "preset": name}} for n, name in ((1, "fsdp"), (2, "fc")))
    assert differences(old, new) == []
