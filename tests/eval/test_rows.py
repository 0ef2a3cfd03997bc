"""Images that stay on the devices as rows: gathering gives the same as a plain array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.eval.steps import LANES, Rows, gather, in_rows, row_size

SHAPES = [(32, 32, 3), (28, 28, 1), (7, 5, 3), (128, 1), (4, 8, 8, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_gathered_rows_are_the_examples(shape, kind):
    images = np.random.default_rng(0).integers(0, 255, (11, *shape)).astype(kind)
    resident = in_rows({"image": images, "label": np.arange(11)})
    batch = jax.jit(gather)({"index": jnp.array([3, 10, 3, 0])}, resident)
    np.testing.assert_array_equal(batch["image"], images[[3, 10, 3, 0]])
    np.testing.assert_array_equal(batch["label"], [3, 10, 3, 0])
    assert batch["image"].dtype == kind
    assert resident["image"].values.shape == (11, row_size(shape)) and row_size(shape) % LANES == 0
    assert row_size(shape) - np.prod(shape) < LANES


def test_features_stay_as_they_are():
    features = np.ones((3, 10), np.float32)
    assert in_rows({"image": features})["image"] is features and row_size((10,)) == 10


def test_rows_are_known_from_shapes_alone():
    images = jax.ShapeDtypeStruct((50_000, 32, 32, 3), jnp.uint8)
    rows = jax.eval_shape(in_rows, {"image": images})["image"]
    assert isinstance(rows, Rows) and rows.values.shape == (50_000, 3072) and rows.shape == (32, 32, 3)
