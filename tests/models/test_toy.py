import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError
from lecture_images import X

# The lecture's X, drawn otherwise.
DEFORMED_X = """
.........
......#..
.#...#...
..##.#...
....#....
...#.##..
...#...#.
..#......
.........
"""
# What the lecture prints for the X: decimals are cut, not rounded.
DIAGONAL = """
 0.77 -0.11  0.11  0.33  0.55 -0.11  0.33
-0.11  1.00 -0.11  0.33 -0.11  0.11 -0.11
 0.11 -0.11  1.00 -0.33  0.11 -0.11  0.55
 0.33  0.33 -0.33  0.55 -0.33  0.33  0.33
 0.55 -0.11  0.11 -0.33  1.00 -0.11  0.11
-0.11  0.11 -0.11  0.33 -0.11  1.00 -0.11
 0.33 -0.11  0.55  0.33  0.11 -0.11  0.77
"""
CROSSING = """
 0.33 -0.55  0.11 -0.11  0.11 -0.55  0.33
-0.55  0.55 -0.55  0.33 -0.55  0.55 -0.55
 0.11 -0.55  0.55 -0.77  0.55 -0.55  0.11
-0.11  0.33 -0.77  1.00 -0.77  0.33 -0.11
 0.11 -0.55  0.55 -0.77  0.55 -0.55  0.11
-0.55  0.55 -0.55  0.33 -0.55  0.55 -0.55
 0.33 -0.55  0.11 -0.11  0.11 -0.55  0.33
"""
POOLED = (
    "1.00 0.33 0.55 0.33  0.33 1.00 0.33 0.55  0.55 0.33 1.00 0.11  0.33 0.55 0.11 0.77",
    "0.55 0.33 0.55 0.33  0.33 1.00 0.55 0.11  0.55 0.55 0.55 0.11  0.33 0.11 0.11 0.33",
    "0.33 0.55 1.00 0.77  0.55 0.55 1.00 0.33  1.00 1.00 0.11 0.55  0.77 0.33 0.55 0.33",
)


def numbers(text, size):
    return np.array(text.split(), float).reshape(size, size)


def image(text):
    pixels = [[1.0 if c == "#" else -1.0 for c in line] for line in text.split()]
    return jnp.asarray(pixels, jnp.float32).reshape(1, 9, 9, 1)


def as_printed(values):
    """Returns matches, which are ninths, with two decimals that are cut."""
    ninths = np.rint(9 * np.asarray(values)).astype(int)
    np.testing.assert_allclose(values, ninths / 9, atol=1e-6)
    return np.sign(ninths) * (100 * abs(ninths) // 9) / 100


def lecture(**fields):
    return nnx.view(models.create("toy", features_from="lecture", **fields), deterministic=True)


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("toy", **fields))


def test_the_maps_of_the_three_features_are_those_of_the_lecture():
    maps = as_printed(lecture().conv1.conv(image(X))[0])
    np.testing.assert_array_equal(maps[..., 0], numbers(DIAGONAL, 7))
    np.testing.assert_array_equal(maps[..., 1], numbers(CROSSING, 7))
    np.testing.assert_array_equal(maps[..., 2], numbers(DIAGONAL, 7)[:, ::-1])  # the X is symmetric


def test_the_rectified_and_the_pooled_maps_are_those_of_the_lecture():
    model = lecture()
    rectified = as_printed(model.conv1(image(X))[0, ..., 0])
    np.testing.assert_array_equal(rectified, np.maximum(numbers(DIAGONAL, 7), 0))
    assert rectified[0].tolist() == [0.77, 0, 0.11, 0.33, 0.55, 0, 0.33]
    pooled = as_printed(model.features(image(X))[0])
    for i, expected in enumerate(POOLED):
        np.testing.assert_array_equal(pooled[..., i], numbers(expected, 4))


def test_the_worked_patch_matches_in_seven_of_nine_pixels():
    patch = jnp.asarray([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], jnp.float32).reshape(1, 3, 3, 1)  # the X's middle
    assert as_printed(lecture().conv1.conv(patch)[0, 0, 0, 0]) == 0.55  # (1+1-1+1+1+1-1+1+1)/9


def test_features_match_the_x_that_pixels_do_not():
    assert int((image(X) == image(DEFORMED_X)).sum()) == 65  # of 81
    best = np.asarray(lecture().conv1.conv(image(DEFORMED_X))).max(axis=(0, 1, 2))
    np.testing.assert_allclose(best, [7 / 9, 1, 7 / 9], atol=1e-6)


def test_the_layers_are_those_of_the_table():
    rows = layer_table(lambda: models.create("toy"), (9, 9, 1))
    assert [(row.name, row.output_shape, row.parameters) for row in rows] == [
        ("conv1/conv", (7, 7, 3), 30),
        ("pool1", (4, 4, 3), 0),
        ("head/classifier", (2,), 98),
    ]
    assert 81 + sum(row.outputs for row in rows) == 81 + 147 + 48 + 2  # activation elements


def test_learning_starts_at_random_and_setting_changes_conv1_only():
    learning, given = models.create("toy"), models.create("toy", features_from="lecture")
    assert len(np.unique(np.abs(learning.conv1.conv.kernel[...]))) == 27
    assert set(np.unique(np.asarray(given.conv1.conv.kernel[...]))) == {np.float32(-1 / 9), np.float32(1 / 9)}
    np.testing.assert_array_equal(given.conv1.conv.bias[...], 0)
    np.testing.assert_array_equal(given.head.classifier.kernel[...], learning.head.classifier.kernel[...])
    assert isinstance(given.conv1.conv.kernel, nnx.Param)  # training continues from there


def test_fields_do_what_they_say():
    knobs = abstract(num_features=4, kernel=4, pool_size=3, pool_stride=3, fc_sizes=(6, 5))
    assert knobs.conv1.conv.kernel.shape == (4, 4, 1, 4)  # 9x9 -> 6x6 -> 2x2
    assert [layer.kernel.shape for layer in knobs.head.hidden] == [(16, 6), (6, 5)]
    assert abstract(width=2.0, fc_sizes=(6,)).head.hidden[0].kernel.shape == (16 * 6, 12)
    assert abstract(stages=2).conv2.conv.kernel.shape == (3, 3, 3, 3)
    assert abstract(head="conv").head.classifier.kernel.shape == (1, 1, 3, 2)
    assert abstract(pool="average").head.classifier.kernel.shape == (48, 2)  # 4x4 of 3: it reaches over the end as well


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(features_from="lecturer"), "did you mean 'lecture'"),
        (dict(features_from="lecture", kernel=5), "5x5 on 1 with 3"),
        (dict(features_from="lecture", num_features=4), "3x3 on 1 with 4"),
        (dict(features_from="lecture", input_shape=(9, 9, 3)), "3x3 on 3 with 3"),
        (dict(stages=0), "stages is 0"),
        (dict(stages=3), "9x9 is too small.*'conv3/conv'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
