"""Files of weights by others, honest and hostile."""

import io
import json
import os
import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import state_dicts

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
EVERY_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def numpy_of(path):
    return state_dicts.read(path).read()


def refused(path, *parts):
    with pytest.raises(UserError) as error:
        numpy_of(path)
    for part in (str(path), *parts):
        assert part in str(error.value), error.value
    return str(error.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_floating_types_become_float32(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    save_file({"a": VALUES.astype(getattr(ml_dtypes, kind, None) or kind), "a.num_batches_tracked": np.array(3)}, path)
    found = state_dicts.read(path)
    assert (found.dtypes, found.shapes, found.note) == ((kind,), {"a": (2, 3)}, "")
    values = found.read()["a"]
    assert values.dtype == np.float32 and values.flags.writeable
    np.testing.assert_array_equal(values, VALUES)  # quarters: exact in all of them


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_of_both_formats(tmp_path, torch, kind, zipped):
    path = tmp_path / "x.pth"
    tensor = torch.from_numpy(VALUES).to(getattr(torch, kind)).T  # not in a row
    torch.save({"a": torch.nn.Parameter(tensor)}, path, _use_new_zipfile_serialization=zipped)
    found = state_dicts.read(path)
    assert (found.dtypes, found.shapes) == ((kind,), {"a": (3, 2)})
    np.testing.assert_array_equal(found.read()["a"], VALUES.T)


def test_loaded_arrays_do_not_change_with_the_file(tmp_path, torch):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.from_numpy(VALUES)}, path)
    values = numpy_of(path)["a"]
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(values, VALUES)


@pytest.mark.parametrize(
    "wrapped, note",
    [
        (lambda state: {"state_dict": state, "epoch": 3, "best": 0.5}, "its entry 'state_dict', not epoch, best"),
        (lambda state: {"model": state}, "its entry 'model'"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "names without 'module.'"),
        (
            lambda state: {"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}},
            "its entry 'state_dict', names without 'model._orig_mod.'",
        ),
    ],
)
def test_state_dicts_as_training_scripts_save_them(tmp_path, torch, wrapped, note):
    path = tmp_path / "x.pt"
    torch.save(wrapped({"conv1.weight": torch.from_numpy(VALUES), "bn1.num_batches_tracked": torch.tensor(1)}), path)
    found = state_dicts.read(path)
    assert (found.note, dict(found.shapes)) == (note, {"conv1.weight": (2, 3)})
    np.testing.assert_array_equal(found.read()["conv1.weight"], VALUES)


@pytest.mark.parametrize(
    "wrapped, note",
    [
        (
            lambda state, one: {"epoch": 9, "arch": "a", "state_dict": state, "best_acc1": one, "optimizer": {0: one}},
            "its entry 'state_dict', not epoch, arch, best_acc1, optimizer",
        ),
        (lambda state, one: {"model": state, "model_ema": dict(state)}, "its entry 'model', not model_ema"),
        (lambda state, one: {"a": {"b": {"weights": state}}}, "its entry 'a.b.weights'"),
        (
            lambda state, one: {"state_dict": {"features.module." + name: x for name, x in state.items()}},
            "its entry 'state_dict', names without '.module.'",
        ),
    ],
)
def test_a_state_dict_is_found_by_its_content(tmp_path, torch, wrapped, note):
    state = {"0.weight": torch.from_numpy(VALUES), "0.bias": torch.ones(2)}
    torch.save(wrapped(state, torch.tensor(71.5)), tmp_path / "x.pth")
    found = state_dicts.read(tmp_path / "x.pth")
    assert (
        found.note == note
        and all(name.endswith(("0.weight", "0.bias")) for name in found.shapes)
        and len(found.shapes) == 2
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "ckpt", "pkl", "tar", "weights"])
def test_the_content_says_what_a_file_is(tmp_path, torch, suffix):
    save_file({"a": VALUES}, tmp_path / f"a.{suffix}")
    torch.save({"a": torch.from_numpy(VALUES)}, tmp_path / f"b.{suffix}")
    for name in "ab":
        np.testing.assert_array_equal(state_dicts.read(tmp_path / f"{name}.{suffix}").read()["a"], VALUES)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b'{"a": 1}', "JSON text"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "ckpt"])
def test_a_file_without_weights_is_named(tmp_path, content, told, suffix):
    (tmp_path / f"x.{suffix}").write_bytes(content)
    refused(tmp_path / f"x.{suffix}", "cannot be read as weights", told)


def test_a_small_file_takes_no_memory(tmp_path, torch):
    many = b"".join(b"c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R" for _ in range(4))  # a gigabyte each
    (tmp_path / "x.pth").write_bytes(b"\x80\x02(" + many + b"l.")
    refused(tmp_path / "x.pth", "is refused", "bytearray")


def test_no_message_advises_to_execute_a_file(tmp_path, torch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": VALUES}))
    assert "weights_only" not in refused(tmp_path / "x.pkl", "x.pkl")


def test_infinite_values_are_listed(tmp_path, torch):
    weights = {"fine": VALUES, "nan": np.float32([1, np.nan]), "inf": np.float32([np.inf])}
    save_file(weights, tmp_path / "x.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, tmp_path / "x.pth")
    save_file({"large": np.float64([1e300])}, tmp_path / "y.safetensors")  # not infinite before its conversion
    for name in ("x.safetensors", "x.pth"):
        assert "fine" not in refused(tmp_path / name, "infinite or no numbers", "nan", "inf")
    refused(tmp_path / "y.safetensors", "large")


def test_integers_and_sparse_tensors_are_not_weights(tmp_path, torch):
    save_file({"a": VALUES, "b": np.int8([1])}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "b (I8)")
    torch.save({"a": torch.eye(3).to_sparse(), "b": torch.tensor([True])}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "a (torch.sparse_coo", "b (bool)")
    save_file({"a.num_batches_tracked": np.array(1)}, tmp_path / "y.safetensors")
    refused(tmp_path / "y.safetensors", "holds no weights")


def test_a_file_without_a_state_dict_is_refused(tmp_path, torch):
    refused(tmp_path / "none.pth", "there is no file")
    refused(tmp_path / "none.safetensors", "there is no file")
    for name, value, told in (("list", [1.0], "a list"), ("odd", {"a": 1, "weights": {}}, "the entries a, weights")):
        torch.save(value, tmp_path / f"{name}.pth")
        refused(tmp_path / f"{name}.pth", told, "state_dict, model")
    for suffix in ("pth", "safetensors"):
        for content in (b"", b"<html>not found</html>", b"\x00" * 100):
            (tmp_path / f"x.{suffix}").write_bytes(content)
            refused(tmp_path / f"x.{suffix}", "cannot be read")


class Attack:
    """What makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "newer pickle", "TorchScript"])
def test_a_pickle_that_would_execute_code_is_refused(tmp_path, torch, form):
    path, target = tmp_path / "x.pth", tmp_path / "executed"
    pickle.loads(pickle.dumps(Attack(target)))
    assert target.exists()  # so the attack works where it is not refused
    target.rmdir()
    if "pickle" in form:
        path.write_bytes(pickle.dumps(Attack(target), protocol=2 if form == "pickle" else 4))
    elif form == "TorchScript":  # its archives have code, and pickles in other entries
        torch.save({"a": torch.ones(2)}, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("x/constants.pkl", pickle.dumps(Attack(target)))
    else:
        state = {"a": torch.ones(2), "b": Attack(target)}
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    if form == "newer pickle":
        refused(path, "cannot be read")
    else:
        named = "TorchScript" if form == "TorchScript" else f"{os.name}.mkdir"
        refused(path, "is refused", named, "could execute code", "torch.save(model.state_dict()")
    assert not target.exists()


def test_a_whole_module_is_refused(tmp_path, torch):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "is refused", "torch.nn.modules.linear.Linear", "save its weights alone")


def test_an_old_pytorch_is_not_trusted(tmp_path, torch, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    refused(tmp_path / "x.pth", "2.5.1+cpu", "before 2.6")


def test_without_pytorch_the_message_names_the_way(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(tmp_path / "x.pth", "pip install 'cnn-jax[torch]'", "safetensors.torch.save_file")


# ---------------------------------------------------------------- damaged, and lying


@pytest.fixture
def honest(torch):
    """The bytes of a file of each kind; those of the older format of torch hold addresses, and no two are alike."""
    buffer, old = io.BytesIO(), io.BytesIO()
    state = {"a": torch.from_numpy(VALUES), "b": torch.ones(3)}
    torch.save(state, buffer)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {
        "safetensors": save({"a": VALUES, "b": np.ones(3, np.float32)}),
        "pth": buffer.getvalue(),
        "pt": old.getvalue(),
    }


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@EVERY_FILE
@given(data=st.data())
def test_a_file_cut_off_anywhere_is_one_message(tmp_path, honest, suffix, data):
    content = honest[suffix]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@EVERY_FILE
@given(data=st.data())
def test_a_changed_byte_is_one_message_or_other_weights(tmp_path, honest, suffix, data):
    content = bytearray(honest[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    try:
        weights = numpy_of(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert sum(value.nbytes for value in weights.values()) <= len(content)


@pytest.mark.parametrize("shape", [[2, 4], [10**6, 10**6, 10**6], [2**63, 2], [-2, -3]])
def test_a_safetensors_header_that_lies(tmp_path, shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + VALUES.tobytes())
    refused(tmp_path / "x.safetensors", "cannot be read")


def test_a_safetensors_header_of_absurd_length_or_offsets(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(tmp_path / "x.safetensors", "cannot be read")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + VALUES.tobytes())
    refused(tmp_path / "x.safetensors", "cannot be read")


def test_an_absurd_size_of_an_array_without_values_is_refused(tmp_path, torch):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    torch.save({"a": torch.zeros(2**62, 0)}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        refused(tmp_path / name, f"arrays without values: a [{2**62}, 0]")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path, torch):
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "x.pth")  # strides of 0: four bytes are enough
    assert (tmp_path / "x.pth").stat().st_size < 2000
    refused(tmp_path / "x.pth", "is damaged", f"{4 * 2**40:,}")


def test_a_compressed_archive_is_refused(tmp_path, torch):
    torch.save({"a": torch.zeros(2**22)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for part in plain.infolist():
            bomb.writestr(part.filename, plain.read(part), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 2**15
    refused(tmp_path / "bomb.pth", "is refused", "compressed")


def test_entries_that_share_their_bytes_are_refused(tmp_path, torch):
    """A directory that names one entry many times: more than the file holds."""
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(2**12)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (part,) = (part for part in archive.infolist() if part.filename.endswith("data/0"))
        for i in range(3):
            copy = zipfile.ZipInfo(f"x/data/{i + 1}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(copy, field, getattr(part, field))
            archive.filelist.append(copy)
        archive._didModify = True
    refused(path, "is refused", "says that it holds more")
