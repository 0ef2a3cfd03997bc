"""Arrays in .npy files: they are read as by NumPy, and other files are one error with the file's name."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.data.arrays import CLIPS, SEQUENCES, StoredArray
from cnn_jax.data.decode import UnreadableError


def save(path, array, **options):
    np.save(path, array, **options)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 4, 5, 1), (7, 4, 5, 3)])
def test_a_part_of_a_clip_is_that_part_of_the_array(tmp_path, shape, order):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = save(tmp_path / "a.npy", np.asarray(values, order=order))
    channels = shape[3] if len(shape) == 4 else 1
    clip = StoredArray(file, channels, CLIPS)
    assert clip.shape == (7, 4, 5, channels) and len(clip) == 7
    found = clip[2:6]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values[2:6].reshape(4, 4, 5, channels))


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f2", "<f4", ">f8", "<u4", "<i8"])
def test_sequences_of_any_number_become_float32_as_they_are(tmp_path, dtype):
    values = np.arange(20).astype(dtype).reshape(10, 2)
    found = StoredArray(save(tmp_path / "a.npy", values), 2, SEQUENCES)[3:8]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(20).reshape(10, 2)[3:8])
    one = StoredArray(save(tmp_path / "b.npy", values[:, 0]), 1, SEQUENCES)
    assert one.shape == (10, 1) and one[0:10].shape == (10, 1)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


def objects():
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    return file.getvalue()


def header(text):
    """Returns a file of version 1.0 with the header `text`, and 8 bytes of values."""
    data = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + b"\0" * 8


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"this is text", "cannot be read"),
        (objects(), "values are of type object, but must be integers or floats"),
        (pickle.dumps(Bomb()), "cannot be read"),
        (npy(np.zeros(4, complex)), "of type complex128"),
        (npy(np.zeros(4, bool)), "of type bool"),
        (npy(np.array(["a"])), "of type <U1"),
        (npy(np.zeros(4, "f4,i4")), "integers or floats"),
        (npy(np.zeros((0, 1))), r"shape is \[0, 1\], but must be \[L\] or \[L, C\]"),
        (npy(np.float32(1)), r"shape is \[\]"),
        (npy(np.zeros((2, 2, 2))), r"shape is \[2, 2, 2\]"),
        (npy(np.zeros((4, 3))), "has 3 channels, but config.data.channels is 1"),
        (npy(np.zeros(8))[:-3], "header promises 64 bytes of values, but 61 follow"),
        (npy(np.zeros(8)) + b"more", "header promises 64 bytes of values, but 68 follow"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"), "promises 8,000,000,000,000"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}\n"), r"shape is \[-1, -1\]"),
        (header("__import__('os').abort()\n"), "header cannot be read"),
        (header("(" * 3000), "header cannot be read"),
        (npy(np.array([0.0, np.nan])), "values that are not finite"),
        (npy(np.array([0.0, -np.inf])), "values that are not finite"),
        (npy(np.array([0.0, 1e300])), "values that are not finite"),
    ],
)
def test_an_invalid_sequence_is_an_error_that_names_the_file(tmp_path, content, message):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(UnreadableError, match=f"bad.npy: .*{message}"):
        sequence = StoredArray(tmp_path / "bad.npy", 1, SEQUENCES)
        _ = sequence[0 : len(sequence)]


def test_clips_are_bytes(tmp_path):
    for array, message in ((np.zeros((4, 2, 2)), "type float64, but must be uint8"), (np.zeros((4, 2), np.uint8), "T")):
        with pytest.raises(UnreadableError, match=message):
            len(StoredArray(save(tmp_path / "a.npy", array), 1, CLIPS))
    with pytest.raises(UnreadableError, match=r"gone\.npy: it cannot be read"):
        len(StoredArray(tmp_path / "gone.npy", 1, CLIPS))


@given(st.binary(max_size=300), st.integers(0, 130))
def test_any_bytes_are_an_array_or_an_error(tmp_path_factory, noise, place):
    content = bytearray(npy(np.arange(6, dtype=np.float32)))
    content[place : place + len(noise)] = noise
    file = tmp_path_factory.getbasetemp() / "fuzz.npy"
    file.write_bytes(content)
    sequence = StoredArray(file, 1, SEQUENCES)
    try:
        found = sequence[0 : len(sequence)]
    except UnreadableError as error:
        assert str(file) in str(error)
    else:
        np.testing.assert_array_equal(found.ravel(), np.load(file, allow_pickle=False).astype(np.float32).ravel())
