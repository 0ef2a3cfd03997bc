"""Pixels of the pictures of what happens inside a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image

from cnn_jax.visualization import inside_plots


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def share(path, color):
    """Returns the share of pixels that have a color, exactly."""
    return (pixels(path) == color).all(axis=-1).mean()


def test_a_mosaic_has_its_tiles_in_rows_with_white_between():
    tiles = np.stack([np.full((2, 3, 1), value, np.float32) for value in (0.1, 0.2, 0.3)])
    white, rows = np.ones((2, 1)), [np.full((2, 3), value) for value in (0.1, 0.2, 0.3)]
    above = np.concatenate([rows[0], white, rows[1]], axis=1)
    below = np.concatenate([rows[2], white, np.ones((2, 3))], axis=1)
    expected = np.concatenate([above, np.ones((1, 7)), below])
    np.testing.assert_allclose(inside_plots.mosaic(tiles, 2, 1)[..., 0], expected)


@pytest.mark.parametrize(
    ("count", "aspect", "columns"), [(96, 1.8, 16), (64, 1.8, 16), (6, 1.8, 3), (24, 1.5, 6), (1, 1.5, 1), (7, 1.5, 4)]
)
def test_grids_are_full_and_about_as_wide_as_asked(count, aspect, columns):
    assert inside_plots._grid(count, aspect) == columns


@given(st.text(min_size=1), st.floats(0.5, 4))
def test_texts_fit(text, inches):
    found = inside_plots.short(text, inches)
    assert len(found) <= 15 * inches
    begin, dots, end = found.partition("…")
    assert found == text or (text.startswith(begin) and dots and text.endswith(end))


def test_zero_is_the_middle_gray():
    np.testing.assert_allclose(inside_plots.signed(np.array([-2.0, -1, 0, 2, 3]), 2), [0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose(inside_plots.signed(np.zeros(3), 0), 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_on_one_scale(channels, tmp_path):
    kernels = np.zeros((2, 2, channels, 2), np.float32)
    kernels[0, :, :, 0] = 4  # one weak and one strong kernel, half of them zero
    kernels[0, :, :, 1] = -1
    path = inside_plots.plot_filters(kernels, tmp_path / "a.png", title="t")
    parts = {round(255 * (0.5 + 0.5 * value)): value for value in (4 / 4, -1 / 4, 0)}
    greys = pixels(path)
    shares = {value: (np.abs(greys.astype(int) - grey).max(-1) <= 1).mean() for grey, value in parts.items()}
    assert shares[0] > 0.25 and shares[-0.25] > 0.12
    assert abs(shares[0] / shares[-0.25] - 2) < 0.2


def test_pixels_outside_of_a_map_stay_gray():
    image = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[0, 0], values[3, 3] = 2, -1
    seen = inside_plots.overlay(image, values, ScalarMappable(Normalize(0, 2), "plasma"))
    np.testing.assert_allclose(seen[1:3, 1:3], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(seen[3, 3], 1 / 3, atol=1e-6)
    yellow = np.array([0.940015, 0.975158, 0.131326])  # the end of plasma
    np.testing.assert_allclose(seen[0, 0], 0.35 / 3 + 0.65 * yellow, atol=1e-3)


def test_every_plot_is_a_file_in_one_piece(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    maps = rng.normal(size=(5, 3, 4)).astype(np.float32)
    path = tmp_path / "a.png"
    for values in (maps, np.abs(maps), np.zeros_like(maps)):
        assert inside_plots.plot_maps(image, values, range(5), path, title="t", caption="c") == path
        rows = [
            (image, "c", [("one", 0.7, values[0]), ("two", 0.2, values[1])]),
            (image, "c", [("three", 1, values[2])]),
        ]
        assert inside_plots.plot_cams(rows, path, title="t", scale="s") == path
        assert [file.name for file in tmp_path.iterdir()] == ["a.png"] and min(pixels(path).shape[:2]) > 300
    signals = rng.normal(size=(4, 3, 4, 3))
    parts = rng.integers(0, 256, (4, 3, 4, 3), dtype=np.uint8)
    inside_plots.plot_deconvolutions([("m", signals, parts)] * 3, path, title="t", columns=2)
    assert share(path, (255, 255, 255)) < 0.7
    points, labels = rng.normal(size=(30, 2)), [f"class{i % 13}" for i in range(30)]
    inside_plots.plot_embedding(points, labels, path, title="t", axes=("x", "y"))
    assert share(path, (255, 255, 255)) > 0.7
    inside_plots.plot_embedding(points, labels, path, title="t", axes=("", ""), images=np.stack([image] * 30))
    assert share(path, (255, 255, 255)) < 0.95
