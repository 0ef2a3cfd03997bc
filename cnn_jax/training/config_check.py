"""One check of every field of a configuration before anything is built."""

import math
from typing import Any

from cnn_jax import models
from cnn_jax.config.durations import GIVEN, get, model_fields, parse_duration
from cnn_jax.core.errors import check, check_choice, near
from cnn_jax.data.augmentations import check_augment
from cnn_jax.data.dataset import AXES, KINDS, SOURCES, VARIATIONS
from cnn_jax.eval.protocols import check_protocol
from cnn_jax.parallel.sharding import MESH_AXES, PRESETS

TRAIN_CROPS = ("resize", "random_resized", "random", "random_central")
SCHEDULES = ("constant", "steps", "plateau", "cosine", "polynomial", "exponential")


def check_config(config: Any) -> None:
    """Raises UserError for the first impossible value; what passes here can be built, if data and image size fit."""
    check("name" in config.model, "config.model has no name: the config file must set config.model")
    known = models.fields(config.model.name)
    for field in model_fields(config):
        check(
            field in known and field not in GIVEN,
            f"config.model.{field}: {config.model.name} has no such field{near(field, known)}. "
            f"Its fields: {', '.join(name for name in known if name not in GIVEN)}",
        )

    _positive(config, "batch_size", "eval.batch_size", "accumulation", "checkpoint.keep")
    _positive(config, "data.workers", "data.prefetch", "data.timeout", "mesh.model", "checkpoint.lease")
    _not_negative(config, "data.images_per_class", "checkpoint.retry", "checkpoint.lease", "log.stall")
    _not_negative(config, "seed", "optim.weight_decay", "optim.clip_norm", "optim.learning_rate")
    _not_negative(config, "eval.recompute_statistics", "optim.schedule.patience", "optim.schedule.min_improvement")
    for field in ("label_smoothing", "ema_decay", "optim.momentum"):
        value = get(config, field)
        check(0 <= value < 1, f"config.{field} is {value}, but must be in [0, 1)")
    check(
        config.batch_size % config.accumulation == 0,
        f"config.accumulation is {config.accumulation}, but must divide config.batch_size, {config.batch_size}",
    )
    check_choice("config.precision", config.precision, ("float32", "bfloat16"))

    _durations(config, "duration", "eval.every", "checkpoint.every", "log.every", above_zero=True)
    schedule = config.optim.schedule
    check_choice("config.optim.schedule.name", schedule.name, SCHEDULES)
    check_choice("config.optim.schedule.warmup_shape", schedule.warmup_shape, ("linear", "constant"))
    check_choice("config.optim.decay_style", config.optim.decay_style, ("l2", "decoupled"))
    _durations(config, "optim.schedule.warmup")
    _durations(config, "optim.schedule.interval", above_zero=True)
    for boundary in schedule.boundaries:
        parse_duration(boundary, field="config.optim.schedule.boundaries")
    check(0 < schedule.factor <= 1, f"config.optim.schedule.factor is {schedule.factor}, but must be in (0, 1]")
    check(schedule.patience > 0, "config.optim.schedule.patience is 0, but must be at least 1 validation")

    for rule in config.optim.lr_multipliers:
        check(
            isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str) and _is_number(rule[1]),
            f"config.optim.lr_multipliers has {rule!r}, but every rule must be (regex, factor)",
        )
    check(
        0 < config.optim.layer_decay <= 1,
        f"config.optim.layer_decay is {config.optim.layer_decay}, but must be in (0, 1]",
    )
    for field, low, high in (("end", 0, 1), ("warmup_start", 0, 1), ("power", 0, 100)):
        value = schedule[field]
        check(low <= value <= high, f"config.optim.schedule.{field} is {value}, but must be in [{low}, {high}]")
    check(
        config.optim.momentum > 0 or not config.optim.nesterov,
        "config.optim.nesterov is True, but config.optim.momentum is 0: Nesterov's form needs momentum",
    )
    check(config.seed < 2**32, f"config.seed is {config.seed}, but must be below 2**32")

    check_choice("config.mesh.preset", config.mesh.preset, PRESETS)
    for rule in config.mesh.rules:
        check(
            isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str) and _are_axes(rule[1]),
            f"config.mesh.rules has {rule!r}, but every rule must be (regex, axes): 'data', 'model', or one of 'data', "
            "'model' and None for each axis of the array, no name twice",
        )

    data = config.data
    check_choice("config.data.source", data.source, SOURCES)
    check(
        data.source == "tfds" or data.name == data.source,
        f"config.data.name is {data.name!r}, but config.data.source is {data.source!r}: name the data set behind the "
        f"configuration file, as in --config=configs/lenet5.py:{data.name}",
    )
    check_choice("config.data.placement", data.placement, ("device", "stream"))
    check_choice("config.data.on_error", data.on_error, ("raise", "skip"))
    check(
        data.on_error == "raise" or (data.source in ("folder", "tfds") and data.placement == "stream"),
        f"config.data.on_error is 'skip', which is for stored pictures with placement 'stream', but the source is "
        f"{data.source!r} and the placement {data.placement!r}",
    )
    check_choice("config.data.normalize", data.normalize, ("channel", "pixel", "none"))
    check_choice("config.data.train_crop", data.train_crop, TRAIN_CROPS)
    check_choice("config.data.test_crop", data.test_crop, ("resize", "center"))
    check_choice("config.data.train_on", data.train_on, ("train", "train+validation"))
    axes = len(known["input_shape"]) - 1
    check(
        SOURCES[data.source] in (axes, None),
        f"{config.model.name} takes {KINDS[axes]}, but the data set {data.name!r} has none: name one with "
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
        not data.scaled_decoding or (data.source in ("folder", "tfds") and axes == 2),
        "config.data.scaled_decoding is True, which is for stored pictures: leave it at False",
    )
    for name in sorted({name for names in VARIATIONS.values() for name in names}):
        _not_negative(config, f"data.{name}")
        check(
            data[name] == 0 or name in VARIATIONS.get(data.source, ()),
            f"config.data.{name} is {data[name]}, but the source {data.source!r} does not vary in it: leave it at 0",
        )
    check(data.scale < 1, f"config.data.scale is {data.scale}, but must be below 1: nothing would be left")
    check(
        data.test_crop != "center" or data.test_resize >= max(data.image_size),
        f"config.data.test_resize is {data.test_resize}, but the centre crop needs at least {max(data.image_size)}",
    )
    check_protocol(config)
    check(
        data.placement == "device" or data.normalize == "none" or (data.normalize == "channel" and data.mean),
        f"config.data.normalize is {data.normalize!r} with a stream: give config.data.mean and config.data.std "
        "per channel, or use placement 'device', which measures them",
    )
    for name in ("mean", "std"):
        finite = all(isinstance(value, (int, float)) and math.isfinite(value) for value in data[name])
        check(finite, f"config.data.{name} is {data[name]}, but must hold finite numbers")
    check(
        len(data.mean) == len(data.std) and len(data.mean) in (0, data.channels),
        f"config.data.mean {data.mean} and std {data.std} must have one value for each of {data.channels} channels",
    )
    check(
        not data.mean or data.normalize == "channel",
        f"config.data.mean and std are given, but config.data.normalize is {data.normalize!r} and does not use them",
    )
    check(all(std > 0 for std in data.std), f"config.data.std is {data.std}, but every value must be above 0")
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
    check(
        schedule.name != "plateau" or data.train_on == "train",
        "config.optim.schedule.name is 'plateau', but data.train_on leaves no validation part to decide by: "
        "use 'steps' with the boundaries that a run on the train part alone has found",
    )
    check_augment(config)
    check_transfer(config)


def check_transfer(config: Any) -> None:
    """Raises UserError for fields about what is trained, and from where, that exclude one another."""
    check(
        bool(config.init_from) or config.take == "all",
        f"config.take is {config.take!r}, but config.init_from names nothing to take it from",
    )
    check(
        config.take != "frozen" or config.trainable != "full",
        "config.take is 'frozen', but config.trainable is 'full': nothing is frozen, so nothing would be taken",
    )
    if not config.cache_features:
        return
    data = config.data
    for holds, told in (
        (config.trainable == "head", f"config.trainable is {config.trainable!r}: features change unless it is 'head'"),
        (not data.augment, f"config.data.augment is {data.augment}: set it to ()"),
        (
            data.placement == "device" or data.train_crop == "resize",
            f"config.data.train_crop is {data.train_crop!r}, which differs from epoch to epoch: set it to 'resize'; "
            "examples are seen as in the test",
        ),
        (data.on_error == "raise", "config.data.on_error is 'skip': set it to 'raise'"),
        (config.eval.protocol == "single", f"config.eval.protocol is {config.eval.protocol!r}: set it to 'single'"),
        (config.eval.recompute_statistics == 0, "config.eval.recompute_statistics is not 0, but no statistics change"),
        (not config.eval.layers, "config.eval.layers is True, but most layers are not computed"),
        (not config.model.get("auxiliary", False), "config.model.auxiliary is True: set it to False"),
    ):
        check(holds, f"config.cache_features is True, but {told}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _are_axes(axes: Any) -> bool:
    if isinstance(axes, str):
        return axes in MESH_AXES
    named = [axis for axis in axes if axis is not None] if isinstance(axes, (tuple, list)) else [axes]
    return len(set(named)) == len(named) and set(named) <= set(MESH_AXES)


def _positive(config: Any, *fields: str) -> None:
    for field in fields:
        check(get(config, field) > 0, f"config.{field} is {get(config, field)}, but must be above 0")


def _not_negative(config: Any, *fields: str) -> None:
    for field in fields:
        value = get(config, field)
        check(math.isfinite(value) and value >= 0, f"config.{field} is {value}, but must be finite and not negative")


def _durations(config: Any, *fields: str, above_zero: bool = False) -> None:
    for field in fields:
        number, _ = parse_duration(get(config, field), field=f"config.{field}")
        check(number > 0 or not above_zero, f"config.{field} is {get(config, field)!r}, but must be above 0")
