"""The picture of augmented examples shows what training computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.data import augment
from cnn_jax.data.splits import Splits
from cnn_jax.display import plots
from cnn_jax.eval import steps as eval_steps
from cnn_jax.training import diagnostics, step
from cnn_jax.visualization import visualize_data

augmented, mixed = (jax.jit(function, static_argnums=3) for function in (augment.augment, augment.mix))


def make_config(**fields):
    config = recipes.get_config("resnet20")
    config.data.image_size = (8, 8)
    config.batch_size = 12
    for name, value in fields.items():
        section = config.data if name in config.data else config
        with section.ignore_type():
            section[name] = value
    return config


@pytest.mark.parametrize(
    ("accumulation", "augmentations"),
    [
        (3, ("flip", "mixup:1.0")),
        pytest.param(1, ("pad_crop:2", "cutmix:1.0"), marks=pytest.mark.slow),
        pytest.param(1, ("pad_crop:2", "flip"), marks=pytest.mark.slow),
        pytest.param(1, (), marks=pytest.mark.slow),
    ],
)
def test_the_images_are_those_of_the_training_step(accumulation, augmentations):
    config = make_config(accumulation=accumulation, augment=augmentations, seed=3)
    part = Splits(config.data, config.seed).parts["train"]
    number = 107  # a batch that begins in one epoch and ends in the next: 1258 examples
    positions = np.arange(number * 12 - 12, number * 12 + 12)
    images, labels, shares = diagnostics.as_trained(config, part, positions)
    assert images.dtype == np.uint8
    key = step.make_keys(jnp.uint32(3), jnp.int32(number)).augmentation
    for start in (0, 12):
        batch = next(part.train_batches(number - 1 + start // 12, number + start // 12, 12))
        batch = eval_steps.gather(batch, part.resident)
        for i in range(accumulation):  # the parts that the step takes
            micro = {name: array[i::accumulation] for name, array in batch.items()}
            seen = augmented(key, micro["image"], micro["position"], augmentations)
            seen, expected = mixed(key, seen, micro["position"], augmentations)
            own = slice(start + i, start + 12, accumulation)
            np.testing.assert_allclose(images[own], 255 * np.asarray(augment.values(seen)), atol=0.501)
            np.testing.assert_array_equal(labels[own], np.stack([micro["label"], np.roll(micro["label"], 1)], 1))
            np.testing.assert_allclose(shares[own], 1 if expected is None else expected, rtol=1e-6)


def test_streamed_examples_are_cropped_as_in_training():
    config = make_config(placement="stream", mean=(0.5,), std=(0.2,), train_crop="random", train_resize=(9, 14))
    config.data.augment = ("flip",)
    part = Splits(config.data, config.seed).parts["train"]
    positions = np.arange(12, 24)
    images, labels, _ = diagnostics.as_trained(config, part, positions)
    (batch,) = part.train_batches(1, 2, 12)
    key = step.make_keys(jnp.uint32(config.seed), jnp.int32(0)).augmentation
    np.testing.assert_array_equal(images, augmented(key, batch["image"], batch["position"], ("flip",)))
    np.testing.assert_array_equal(labels[:, 0], batch["label"])


def test_rows_are_examples_and_columns_epochs(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "plot_images", lambda rows, path, **texts: drawn.update(texts, rows=rows, path=path))
    config = make_config(augment=("pad_crop:1",))
    shown = visualize_data.data(config, tmp_path / "a.png")
    assert "digits" in shown and "pad_crop:1" in shown and "pad_crop:1" in drawn["title"]
    assert drawn["columns"] == ["as tested", *(f"epoch {i}" for i in range(1, 6))]
    opened = Splits(config.data, config.seed)
    part = opened.parts["train"]
    first = next(part.train_batches(0, 1, 6))["index"]
    assert drawn["names"] == [opened.class_names[label] for label in part.resident["label"][first]]
    for row, index in zip(drawn["rows"], first, strict=True):
        image = part.resident["image"][index]
        np.testing.assert_array_equal(row[0], image)
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        windows = {padded[top : top + 8, left : left + 8].tobytes() for top in range(3) for left in range(3)}
        assert {seen.tobytes() for seen in row[1:]} <= windows  # the same example in all epochs


def test_small_images_are_enlarged_without_blur(tmp_path):
    board = np.where(np.indices((8, 8)).sum(0) % 2, 60, 200).astype(np.uint8)
    images = [[board[..., None], np.stack([board] * 3, axis=-1)]] * 2
    texts = dict(title="t", columns=["a", "b"], names=["c", "d"], captions=[["", "e"], ["", "f"]])
    path = plots.plot_images(images, tmp_path / "board.png", **texts)
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("L"))
    counts = np.bincount(values.ravel(), minlength=256) / values.size
    assert counts[60] > 0.2 and abs(counts[60] - counts[200]) < 0.01
    assert counts[61:200].sum() < 0.02  # only letters and frames have values in between


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one picture to draw: data"),
        (("data", "more"), "name one picture"),
        (("dta",), "did you mean 'data'?"),
        (("data",), "give --config=RECIPE"),
        (("data", "--config=configs/lenet5.py", "--output=a.jpg"), "--output is 'a.jpg'"),
        (("data", "--config=configs/conv1d.py"), "'sequences' are not images"),
        (("data", "--config=configs/lenet5.py", "--config.data.augment=('flop',)"), "did you mean 'flip'?"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message):
    assert message in refused("visualize", *arguments)


def test_the_command_draws_and_says_what(call, tmp_path):
    told = call("visualize", "data", "--config=lenet5", "--config.data.augment=('flip',)", cwd=tmp_path).out
    assert told == "augmented.png: 6 examples of digits: train_crop resize, flip\n"
    with Image.open(tmp_path / "augmented.png") as picture:
        assert min(picture.size) > 1000


def test_picture_that_cannot_be_written_is_a_storage_error(refused, tmp_path):
    error = refused("visualize", "data", "--config=lenet5", "--output=no/such/a.png", cwd=tmp_path, code=74)
    assert "'no/such/a.png' cannot be written" in error
