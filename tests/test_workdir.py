import json

import pytest

from cnn_jax import workdir
from cnn_jax.errors import UserError


def test_the_configuration_is_stored_as_data(tmp_path, small_config):
    (tmp_path / "a" / "b").mkdir(parents=True)
    workdir.prepare(small_config, tmp_path / "a" / "b", data={"name": "x"})
    stored = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert stored["model"]["name"] == "lenet5" and stored["data"]["image_size"] == [28, 28]
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"config.json", "data.json"}


def test_differences_show_both_values_and_leave_out_what_may_change():
    old = {"seed": 0, "log": {"every": "1 steps"}, "data": {"dir": "a", "name": "x"}, "gone": 1}
    new = {"seed": 1, "log": {"every": "2 steps"}, "data": {"dir": "b", "name": "x"}, "came": 2}
    assert workdir.differences(old, new) == [
        "  config.came: 'absent' in the folder, 2 now",
        "  config.gone: 1 in the folder, 'absent' now",
        "  config.seed: 0 in the folder, 1 now",
    ]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path, small_config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file/run cannot be made"), workdir.locked(tmp_path / "file/run"):
        pass


def test_a_file_is_written_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    workdir.write_text(path, "old")

    def full(self, text, encoding):
        self.write_bytes(text[:3].encode(encoding))
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="no space"):
        workdir.write_text(path, "newer text")
    assert path.read_text() == "old"
