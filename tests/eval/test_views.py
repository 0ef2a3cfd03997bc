"""The views of a test image are where the papers place them, and every example comes once at each scale."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import torchvision_models
from cnn_jax.config.fields import get_config
from cnn_jax.data import crops, loader
from cnn_jax.data.decode import UnreadableError
from cnn_jax.eval import views

PHOTOGRAPHS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))


def config_of(**fields):
    config = get_config("imagenet2012").data
    config.update(dict(workers=2, **fields))
    return config


def coordinates(height: int, width: int) -> np.ndarray:
    """Returns an image whose values are the places of its pixels (below 256): [H, W, (y, x, 0)]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


def corner(view: np.ndarray) -> tuple[int, int]:
    return tuple(int(value) for value in view[0, 0, :2])


def test_ten_crops_are_the_corners_and_the_center_of_the_central_square():
    config = config_of(image_size=(24, 20), test_resize=32)
    found = views.views(coordinates(32, 52), config, "10-crop", 32)  # nothing is resized: the square begins at x = 10
    assert found.shape == (5, 24, 20, 3)
    assert [corner(view) for view in found] == [(0, 10), (0, 22), (8, 10), (8, 22), (4, 16)]


@pytest.mark.parametrize("upright", [False, True])
def test_144_crops_are_6_views_of_3_squares(upright):
    config = config_of(image_size=(24, 24))
    image = coordinates(50, 32) if upright else coordinates(32, 50)
    found = views.views(image, config, "144-crop", 32)
    assert found.shape == (18, 24, 24, 3)
    starts = [0, 9, 18]
    for square, start in enumerate(starts):
        y, x = (start, 0) if upright else (0, start)
        six = found[6 * square : 6 * square + 6]
        assert [corner(view) for view in six[:5]] == [(y, x), (y, x + 8), (y + 8, x), (y + 8, x + 8), (y + 4, x + 4)]
        # The last is the whole square, resized: a ramp that goes from end to end.
        np.testing.assert_allclose(six[5, :, 12, 0], y + (np.arange(24) + 0.5) * 32 / 24 - 0.5, atol=1)
        np.testing.assert_allclose(six[5, 12, :, 1], x + (np.arange(24) + 0.5) * 32 / 24 - 0.5, atol=1)
    assert 2 * 4 * len(found) == 144


@given(st.integers(20, 200), st.integers(20, 200), st.integers(32, 100))
def test_a_dense_view_crops_the_longer_side_to_a_multiple(height, width, side):
    image = np.zeros((height, width, 3), np.uint8)
    _, h, w, _ = views.views(image, config_of(image_size=(32, 32)), "dense", side).shape
    assert min(h, w) == side
    longer = max(height, width) * side // min(height, width)
    assert max(h, w) == max(side, longer // 32 * 32)
    assert h == w or (h > w) == (height > width)


def test_a_photograph_is_resized_and_cropped_exactly_as_by_torchvision(tmp_path):
    torchvision_models.import_models()
    from torchvision import transforms

    assert len(PHOTOGRAPHS) == 2  # of 427x640 pixels, and in sizes that leave remainders
    files = list(PHOTOGRAPHS)
    for i, size in enumerate([(375, 500), (500, 375), (333, 251), (257, 1023), (256, 256), (90, 141)]):
        file = tmp_path / f"{i}.jpg"
        Image.open(PHOTOGRAPHS[i % 2]).resize(size).save(file)
        files.append(file)
    for resized, size in ((256, 224), (232, 224), (300, 299)):
        theirs = transforms.Compose([transforms.Resize(resized), transforms.CenterCrop(size)])
        for file in files:
            image = Image.open(file).convert("RGB")
            ours = crops.center_crop(np.asarray(image), (size, size), resized)
            np.testing.assert_array_equal(ours, np.asarray(theirs(image)), err_msg=f"{file.name}, {resized}")


class Pictures:
    """Pictures of several shapes; the first value is the index, and some cannot be read."""

    def __init__(self, count: int, unreadable=()):
        self.count, self.unreadable = count, unreadable

    def __len__(self) -> int:
        return self.count

    def read(self, indices):
        found = []
        for i in indices:
            shape = ((40, 40), (40, 80), (80, 40))[i % 3]
            image = np.full((*shape, 3), i, np.uint8)
            found.append(None if i in self.unreadable else {"image": image, "label": i % 7})
        return found


@given(st.integers(1, 50), st.integers(1, 16), st.sampled_from([1, 2, 3]), st.sampled_from(["dense", "10-crop"]))
def test_every_example_comes_once_at_each_scale(count, batch_size, devices, protocol):
    config = config_of(image_size=(32, 32), on_error="skip")
    part = loader.Split(Pictures(count, unreadable={3, 17}), config, train=False, seed=0)
    scales = (32, 40) if protocol == "dense" else (40,)
    seen = []
    shapes = set()
    for batch in views.batches(part, protocol, scales, batch_size, devices):
        here = batch["mask"] > 0
        assert len(here) % devices == 0 and here.any()
        assert batch["image"][:, 0].size <= max(batch_size * 32 * 32 * 3, devices * batch["image"][0, 0].size)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"] % 7)
        seen += [(int(i), min(batch["image"].shape[2:4])) for i in batch["index"][here]]
        shapes.add(batch["image"].shape)
    sizes = scales if protocol == "dense" else (32,)
    assert sorted(seen) == sorted((i, size) for i in range(count) if i not in {3, 17} for size in sizes)
    assert len(shapes) <= 3 * len(scales)
    assert part.skipped == {i for i in (3, 17) if i < count}


def test_a_line_of_pixels_is_refused_and_takes_no_memory():
    line = np.zeros((2000, 1, 3), np.uint8)
    assert crops.center_crop(line[:200], (224, 224), 256).shape == (224, 224, 3)
    with pytest.raises(UnreadableError, match=r"2000x1 pixels, and would have 512000x256 .* too long to be a picture"):
        crops.center_crop(line, (224, 224), 256)


def test_images_of_many_shapes_wait_only_a_while():
    class Shapes(Pictures):
        def read(self, indices):
            return [{"image": np.full((40 + i, 40, 3), 1, np.uint8), "label": 0} for i in indices]

    part = loader.Split(Shapes(400), config_of(image_size=(32, 32)), train=False, seed=0)
    waiting = most = 0
    for batch in views.batches(part, "dense", (64,), 64, 1):
        waiting += 1
        most = max(most, batch["image"][:, 0, :, :, 0].size)
    assert most <= 64 * 32 * 32 and waiting > 8
    total = sum(int(batch["mask"].sum()) for batch in views.batches(part, "dense", (64,), 64, 1))
    assert total == 400


@pytest.mark.parametrize("size", [(4, 8, 8), (16,)])
def test_clips_and_sequences_have_batches_of_their_size(size):
    class Examples(Pictures):
        def read(self, indices):
            return [{"image": np.zeros((*size, 1), np.uint8), "label": 0} for _ in indices]

    part = loader.Split(Examples(10), config_of(image_size=size, test_crop="resize"), train=False, seed=0)
    assert [len(batch["mask"]) for batch in views.batches(part, "single", (256,), 4, 1)] == [4, 4, 4]
