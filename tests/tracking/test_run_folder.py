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


def test_a_folder_is_locked_by_one_run_and_released(tmp_path):
    holder = rf"run is in use by process {os.getpid()} on "
    with (
        files.locked(tmp_path / "run"),
        pytest.raises(UserError, match=holder),
        files.locked(tmp_path / "run"),
    ):
        pass
    with files.locked(tmp_path / "run"):
        pass


def test_other_data_of_the_same_name_are_refused(tmp_path, small_config):
    data = {"name": "mnist/3.0.1", "examples": {"train": 10}}
    run_folder.prepare(small_config, tmp_path, data=data)
    newer = data | {"name": "mnist/4.0.0"}
    run_folder.prepare(small_config, tmp_path, data=newer)  # nothing has been trained
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"name: 'mnist/4\.0\.0' in the folder, 'mnist/3\.0\.1' now"):
        run_folder.prepare(small_config, tmp_path, data=data)
    assert json.loads((tmp_path / "data.json").read_text()) == newer


DATA = {"name": "folder", "examples": {"train": 10}, "digest": "ab"}


def saved_run(config, folder, changes=()):
    """Makes the folder of a run with a checkpoint whose manifest says of which run it is."""
    run_folder.prepare(config, folder, data=DATA)
    saved = run_folder.identity(json.loads(config.to_json()), DATA) | dict(changes)
    (folder / "checkpoints" / "5").mkdir(parents=True)
    (folder / "checkpoints" / "5" / "manifest.json").write_text(json.dumps({"run": saved}))
    return folder


@pytest.mark.parametrize("name", ["config.json", "data.json"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", "[" * 100_000, b"\xff\xfe"])
def test_a_damaged_file_is_written_again_from_what_is_known(tmp_path, small_config, name, content):
    saved_run(small_config, tmp_path)
    path = tmp_path / name
    before = path.read_text()
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (note,) = run_folder.prepare(small_config, tmp_path, data=DATA)
    assert note.startswith(f"{name} was missing or damaged") and path.read_text() == before
    assert run_folder.prepare(small_config, tmp_path, data=DATA) == []


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_file_of_another_run_is_left(tmp_path, small_config, name):
    saved_run(small_config, tmp_path, {{"config.json": "fields", "data.json": "data"}[name]: "other"})
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"another configuration|other data"):
        run_folder.prepare(small_config, tmp_path, data=DATA)
    assert (tmp_path / name).read_text() == ""


def test_checkpoints_that_nothing_describes_are_not_resumed(tmp_path, small_config):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no config\.json, and the checkpoints there do not say"):
        run_folder.check_same(small_config, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, small_config):
    own = run_folder.identity(json.loads(small_config.to_json()), DATA)
    run_folder.check_identity({}, own, tmp_path)  # an older one
    run_folder.check_identity(dict(own), own, tmp_path)
    with pytest.raises(UserError, match="was saved by another run: its configuration and data is not that"):
        run_folder.check_identity({"fields": "x", "data": "y"}, own, tmp_path)


@pytest.mark.parametrize(("field", "value"), [("norm_group", 4), ("optim.options", {"b": 1}), ("model.c5", "conv")])
def test_a_field_newer_than_the_run_had_its_default(tmp_path, small_config, field, value):
    saved_run(small_config, tmp_path)
    run_folder.prepare(small_config, tmp_path, data=DATA)
    stored = json.loads((tmp_path / "config.json").read_text())
    identity = run_folder.identity(stored)
    *section, name = field.split(".")
    del (stored[section[0]] if section else stored)[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert run_folder.identity(stored) == identity
    run_folder.check_same(small_config, tmp_path)
    small_config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=rf"config\.{field}.*in the folder"):
        run_folder.check_same(small_config, tmp_path)


def test_data_in_a_folder_of_another_name_are_the_same(tmp_path, small_config):
    saved_run(small_config, tmp_path)
    old = {"name": "folder flowers", "examples": {"train": 10}}
    (tmp_path / "data.json").write_text(json.dumps(old))
    assert run_folder.prepare(small_config, tmp_path, data=DATA) == []
    with pytest.raises(UserError, match="digest: 'ab' in the folder, 'cd' now"):
        run_folder.prepare(small_config, tmp_path, data=DATA | {"digest": "cd"})


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "run.json", "checkpoints", "tensorboard"])
def test_a_file_of_the_wrong_kind_is_named(tmp_path, small_config, name):
    if name in run_folder.FILES:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"{name} must be a (file|folder), but is not"):
        run_folder.check_same(small_config, tmp_path)


@pytest.mark.parametrize("change", [{"std": [0.0]}, {"mean": ["nan"]}, {"test_crop": "none"}, {"classes": [1]}])
def test_an_impossible_input_is_damaged(tmp_path, change):
    given = dict(image_size=[8, 8], channels=1, test_crop="resize", test_resize=9, mean=[0.5], std=[0.5], classes=None)
    given["interpolation"] = "bilinear"
    run_folder.write_input(tmp_path, given)
    assert run_folder.read_input(tmp_path) == given
    run_folder.write_input(tmp_path, given | change)
    with pytest.raises(UserError, match=r"input\.json is damaged: start the command of the run again"):
        run_folder.read_input(tmp_path)


@pytest.mark.parametrize(
    ("names", "has"),
    [((), False), (("5.partial",), False), (("5.damaged",), True), (("5.partial", "3"), True), (("05", "٩"), False)],
)
def test_an_unfinished_checkpoint_does_not_count(tmp_path, names, has):
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run_folder.has_checkpoint(tmp_path) == has


def test_only_refusals_of_the_storage_become_its_error():
    with pytest.raises(StorageError, match=r"^it stops: No space left \(file\)$"), files.storage_errors("it stops"):
        raise OSError(errno.ENOSPC, "No space left", "file")
    for notes in ("[os_error_code='28'] [spec='{open: true}']", "[spec='{open: true}'] [os_error_code='28']"):
        with pytest.raises(StorageError, match=r"^it stops: No space left on"), files.storage_errors("it stops"):
            raise ValueError(f'RESOURCE_EXHAUSTED: Error writing "x": Failed: No space left {notes}')
    for defect in (FileNotFoundError(errno.ENOENT, "no such file"), ValueError("a: b")):
        with pytest.raises(type(defect)) as raised, files.storage_errors("it stops"):
            raise defect
        assert raised.value is defect


def test_the_mesh_may_change_when_a_run_resumes():
    old, new = ({"mesh": {"model": n, "preset": name}} for n, name in ((1, "fsdp"), (2, "fc")))
    assert differences(old, new) == []
