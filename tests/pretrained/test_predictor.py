"""Files through a trained network: batches, what cannot be read, features on disk."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import cnn_jax
from cnn_jax import models
from cnn_jax.config import cli
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.data.decode import UnreadableError
from cnn_jax.pretrained import features as stored
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.predictor import Predictor


@pytest.fixture(scope="module")
def trained():
    return cnn_jax.load("bundled:lenet5-digits")


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of two persons, of several sizes and modes."""
    random = np.random.default_rng(0)
    for i, (name, shape) in enumerate(
        [("a/1", (28, 28)), ("a/2", (8, 8)), ("b/1", (40, 30, 3)), ("b/2", (28, 28)), ("b/10", (9, 9))]
    ):
        file = tmp_path / "pictures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(file, compress_level=i)
    return tmp_path / "pictures"


@pytest.mark.parametrize("quantity", ["probabilities", "features", "pixels"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_batches_of_any_size_give_what_the_network_gives_alone(trained, pictures, quantity, batch_size):
    files = sorted(pictures.rglob("*.png"))
    done = trained.compute(files, quantity, batch_size=batch_size)
    assert (done.kept, done.unreadable, done.exit_code) == ([0, 1, 2, 3, 4], {}, 0)
    alone = [np.asarray(getattr(trained, quantity)([file]))[0] for file in files]
    np.testing.assert_allclose(done.values, alone, rtol=1e-4, atol=1e-5)


def test_a_predictor_describes_itself(trained):
    assert repr(trained) == "Predictor(lenet5 of bundled:lenet5-digits; images 28x28x1, 10 classes)"


def test_pixels_are_the_normalized_values(trained, pictures):
    with Image.open(pictures / "a/1.png") as picture:
        values = np.asarray(picture, np.float64) / 255
    (mean,), (std,) = trained.source.input["mean"], trained.source.input["std"]
    found = np.asarray(trained.pixels([pictures / "a/1.png"]))
    np.testing.assert_allclose(found, ((values - mean) / std).reshape(1, -1), rtol=1e-4, atol=1e-5)


def test_an_unreadable_file_ends_the_command_or_is_left_out(trained, pictures, capsys):
    files = sorted(pictures.rglob("*.png"))
    whole = trained.compute(files, "features").values
    files[1].write_bytes(files[1].read_bytes()[:90])
    with pytest.raises(UnreadableError, match=r"10\.png|2\.png") as refused:
        trained.compute(files, "features")
    assert str(files[1]) in str(refused.value) and "--on-error=skip" in str(refused.value)
    done = trained.compute(files, "features", batch_size=3, skip=True)
    assert (done.kept, list(done.unreadable), done.exit_code) == ([0, 2, 3, 4], [str(files[1])], 1)
    np.testing.assert_allclose(done.values, whole[[0, 2, 3, 4]], rtol=1e-4, atol=1e-5)
    told = capsys.readouterr().err
    assert f"left out: {files[1]}: it cannot be read" in told and "1 of 5 files are left out" in told
    with pytest.raises(UserError, match="none of the 1 files can be read"):
        trained.compute(files[1:2], "features", skip=True)


def test_features_have_the_names_of_their_folders_and_survive_the_disk(trained, pictures, tmp_path):
    embedded = trained.embed([str(pictures)])
    assert embedded.labels == ["a", "a", "b", "b", "b"]
    assert [file.removeprefix(f"{pictures}/") for file in embedded.files] == [
        *("a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/10.png")
    ]
    assert embedded.features.dtype == np.float32 and embedded.source == "bundled:lenet5-digits"
    embedded.write(tmp_path / "f.npz")
    read = stored.read(tmp_path / "f.npz")
    np.testing.assert_array_equal(read.features, embedded.features)
    assert (read.files, read.labels, read.source) == (embedded.files, embedded.labels, embedded.source)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["f.npz"]
    with np.load(tmp_path / "f.npz", allow_pickle=False) as archive:  # as anybody reads it
        assert archive["features"].shape == (5, 84) and archive["source"] == "bundled:lenet5-digits"


def test_without_folders_there_are_no_labels(trained, pictures, tmp_path):
    embedded = trained.embed([str(pictures / "a")], pixels=True)
    assert embedded.features.shape == (2, 28 * 28) and embedded.source == "bundled:lenet5-digits:pixels"
    embedded.write(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as archive:
        assert sorted(archive.files) == ["features", "files", "source"]


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


GOOD = dict(features=np.ones((2, 3), np.float32), files=np.array(["a", "b"]), source=np.array("s"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=np.ones(2)), "holds no features"),
        (dict(features=np.ones((2, 3), int)), "holds no features"),
        (dict(features=np.ones((3, 3))), "holds no features"),
        (dict(features=np.ones((0, 3)), files=np.array([], str)), "holds no features"),
        (dict(features=np.array([[1, np.nan], [1, 1]])), "not finite"),
        (dict(source=np.array(["s", "t"])), "holds no features"),
        (dict(labels=np.array(["a"])), "holds no features"),
        (dict(files=np.array([1, 2])), "holds no features"),
    ],
)
def test_other_archives_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "f.npz", **(GOOD | change))
    with pytest.raises(UserError, match=message):
        stored.read(tmp_path / "f.npz")


def test_small_archive_of_gigabytes_is_refused_unread(tmp_path):
    np.savez_compressed(tmp_path / "f.npz", **(GOOD | dict(features=np.zeros((2, 3_000_000), np.float32))))
    with pytest.raises(UserError, match=r"would take 24,000,\d+ bytes, more than 100 times its own"):
        stored.read(tmp_path / "f.npz")


def test_nothing_in_a_file_is_executed(tmp_path):
    np.savez(tmp_path / "f.npz", **(GOOD | dict(files=np.array([Harmful(tmp_path / "harm")] * 2, object))))
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "h.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:300])
    np.save(tmp_path / "i.npy", np.ones(3))
    (tmp_path / "i.npy").rename(tmp_path / "i.npz")
    for name in "fghi":
        with pytest.raises(UserError, match=r"cannot be read as features|holds no features"):
            stored.read(tmp_path / f"{name}.npz")
    assert not (tmp_path / "harm").exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        cli.check_output(tmp_path / "no/f.npz", "--output", ".npz")
    with pytest.raises(UserError, match="is a folder"):
        cli.check_output(tmp_path, "--output")
    with pytest.raises(UserError, match=r"must be a file that ends in \.npz"):
        cli.check_output(tmp_path / "f.txt", "--output", ".npz")


def network(name, size, channels, **fields):
    """A network of two classes with random weights."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.create(name, num_classes=2, input_shape=(*size, channels), **fields))
    named = trees.named_leaves(nnx.to_pure_dict(nnx.state(shapes, nnx.Param)))
    leaves = {path: random.normal(0, 0.1, leaf.shape).astype(np.float32) for path, leaf in named}
    given = dict(image_size=size, channels=channels, test_crop="resize", test_resize=8, mean=[0], std=[1])
    given["interpolation"] = "bilinear"
    model = {"name": name} | fields
    return Predictor(pretrained.Pretrained("x", "x", model, given | {"classes": ["a", "b"]}, leaves))


def test_sequences_go_through_networks_that_take_them(tmp_path):
    values = np.random.default_rng(0).normal(size=150)
    np.save(tmp_path / "long.npy", values)
    one = network("conv1d", (128,), 1)
    done = one.compute([tmp_path / "long.npy"], "probabilities")
    middle = values[11:139].astype(np.float32)
    np.testing.assert_allclose(done.values, one.probabilities(middle[None, :, None]), rtol=1e-5)


def test_clips_are_arrays_or_folders_of_frames(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (18, 16, 16), np.uint8)
    np.save(tmp_path / "clip.npy", clip)
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"frames/{i}.png")
    one = network("c3d", (16, 16, 16), 1, width=0.0625, fc_sizes=(8, 8))
    seen = [one.prepare([tmp_path / name])[0] for name in ("clip.npy", "frames")]
    np.testing.assert_array_equal(seen[0], clip[1:17, ..., None])
    np.testing.assert_array_equal(seen[1], clip[1:17, ..., None])
