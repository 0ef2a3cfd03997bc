"""What the fields of config.data must be together; `config.fields` has the rule of each."""

from typing import Any

from cnn_jax import models
from cnn_jax.core import imports
from cnn_jax.core.errors import check, near
from cnn_jax.data.augmentations import check_augment
from cnn_jax.data.dataset import AXES, KINDS, SOURCES, STORED, VARIATIONS


def check_data(config: Any) -> None:
    """Raises UserError for fields of config.data that exclude one another, or the network or the batch size."""
    axes = len(models.fields(config.model.name)["input_shape"]) - 1
    _check_source(config.data)
    _check_fold(config.data)
    _check_shape(config.model.name, config.data, axes)
    _check_drawn(config.data)
    _check_crops(config.data)
    _check_normalization(config.data)
    check_augment(config)


def _check_source(data: Any) -> None:
    check(
        data.source == "tfds" or imports.is_path(data.source) or data.name.partition(":")[0] == data.source,
        f"config.data.name is {data.name!r}, but config.data.source is {data.source!r}: name the data set behind the "
        f"configuration file, as in --config=lenet5:{data.name}",
    )
    check(
        data.on_error == "raise" or (data.source in STORED and data.placement == "stream"),
        f"config.data.on_error is 'skip', which is for stored pictures with placement 'stream', but the source is "
        f"{data.source!r} and the placement {data.placement!r}",
    )


def _check_fold(data: Any) -> None:
    check(
        not data.fold or data.train_on == "train",
        f"config.data.fold is {data.fold!r}, but data.train_on leaves no validation part: set it to 'train'",
    )


def _check_shape(network: str, data: Any, axes: int) -> None:
    check(
        SOURCES.get(data.source, 2) in (axes, None),
        f"{network} takes {KINDS[axes]}, but the data set {data.name!r} has none: name one with "
        f"{KINDS[axes]} behind the configuration file"
        f"{near(data.name, [name for name in SOURCES if SOURCES[name] == axes])}",
    )
    check(
        len(data.image_size) == axes and all(isinstance(size, int) and size >= 1 for size in data.image_size),
        f"config.data.image_size is {data.image_size}, but must be {AXES[axes]}, each at least 1",
    )
    check(
        axes == 2 or (data.train_crop == data.test_crop == "resize" and not data.augment),
        f"config.data.augment is {data.augment}, train_crop {data.train_crop!r} and test_crop {data.test_crop!r}, but "
        f"{KINDS[axes]} are neither augmented nor cropped: leave them at (), 'resize' and 'resize'",
    )
    check(
        not data.scaled_decoding or (data.source in STORED and axes == 2),
        "config.data.scaled_decoding is True, which is for stored pictures: leave it at False",
    )


def _check_drawn(data: Any) -> None:
    for name in sorted({name for names in VARIATIONS.values() for name in names}):
        check(
            data[name] == 0 or name in VARIATIONS.get(data.source, ()),
            f"config.data.{name} is {data[name]}, but the source {data.source!r} does not vary in it: leave it at 0",
        )


def _check_crops(data: Any) -> None:
    check(
        data.test_crop != "center" or data.test_resize >= max(data.image_size),
        f"config.data.test_resize is {data.test_resize}, but the center crop needs at least {max(data.image_size)}",
    )
    check(
        data.placement == "stream" or data.train_crop == "resize",
        f"config.data.train_crop is {data.train_crop!r}, which differs from epoch to epoch: use placement 'stream'",
    )
    if data.train_crop in ("random", "random_central"):
        sides = data.train_resize
        check(
            len(sides) == 2 and all(isinstance(side, int) for side in sides) and sides[0] <= sides[1],
            f"config.data.train_resize is {sides}, but must be (lowest, highest) length of the shorter side, pixels",
        )
        check(
            sides[0] >= max(data.image_size),
            f"config.data.train_resize is {sides}, but crops of {data.image_size} need at least "
            f"{max(data.image_size)} pixels",
        )


def _check_normalization(data: Any) -> None:
    check(
        data.placement == "device" or data.normalize == "none" or (data.normalize == "channel" and data.mean),
        f"config.data.normalize is {data.normalize!r} with a stream: give config.data.mean and config.data.std "
        "per channel, or use placement 'device', which measures them",
    )
    check(
        len(data.mean) == len(data.std) and len(data.mean) in (0, data.channels),
        f"config.data.mean {data.mean} and std {data.std} must have one value for each of {data.channels} channels: "
        f"give both, such as --config.data.mean={(0.5,) * data.channels}, or neither, (), which measures them where "
        "config.data.placement is 'device'",
    )
    check(
        not data.mean or data.normalize == "channel",
        f"config.data.mean and std are given, but config.data.normalize is {data.normalize!r} and does not use them",
    )
    check(all(std > 0 for std in data.std), f"config.data.std is {data.std}, but every value must be above 0")
