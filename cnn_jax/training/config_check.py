"""The check of a whole configuration before anything is built: the rule of each field, then each room's own check."""

from functools import partial
from typing import Any

from cnn_jax.config.durations import parse_duration
from cnn_jax.config.fields import FIELDS, get
from cnn_jax.core.errors import check
from cnn_jax.core.rules import check_fields
from cnn_jax.data.check import check_data
from cnn_jax.eval.protocols import check_protocol
from cnn_jax.models import check_model
from cnn_jax.training.optimizers import check_optimizer


def check_config(config: Any) -> None:
    """Raises UserError for the first impossible value; what passes can be built, if data and image size fit."""
    check_model(config.model)
    check_fields(FIELDS.items(), partial(get, config))
    check_data(config)
    check_protocol(config)
    check_training(config)
    check_transfer(config)


def check_training(config: Any) -> None:
    """Raises UserError for fields about the step and the optimizer that exclude one another."""
    check(
        config.batch_size % config.accumulation == 0,
        f"config.accumulation is {config.accumulation}, but must divide config.batch_size, {config.batch_size}",
    )
    micro_batch = config.batch_size // config.accumulation
    check(
        config.norm_group == 0 or micro_batch % config.norm_group == 0,
        f"config.norm_group is {config.norm_group}, but must divide the {micro_batch} images of a "
        f"{'batch' if config.accumulation == 1 else 'micro-batch'}; 0 is all of them",
    )
    check(
        config.class_weights != "balanced" or config.data.sampling != "balanced",
        "config.class_weights and config.data.sampling are both 'balanced': each alone makes all classes count "
        "equally, together the rare ones dominate. Set one of them to its default",
    )
    check_optimizer(config.optim)
    check(
        config.optim.momentum > 0 or not config.optim.nesterov,
        "config.optim.nesterov is True, but config.optim.momentum is 0: Nesterov's form needs momentum",
    )
    check(
        config.optim.schedule.name != "one_cycle" or parse_duration(config.optim.schedule.warmup)[0] == 0,
        f"config.optim.schedule.warmup is {config.optim.schedule.warmup!r}, but one_cycle rises by itself: set it to "
        "'0 steps'",
    )
    check(
        config.eval.patience == 0 or config.data.train_on == "train",
        f"config.eval.patience is {config.eval.patience}, but data.train_on leaves no validation part to decide by: "
        "set it to 0, and config.duration to where a run on the train part alone has stopped",
    )
    check(
        config.eval.patience == 0 or parse_duration(config.swa_last)[0] == 0,
        f"config.eval.patience is {config.eval.patience}, but config.swa_last averages the weights at a planned end: "
        "set one of them to 0",
    )
    check(
        config.optim.schedule.name != "plateau" or config.data.train_on == "train",
        "config.optim.schedule.name is 'plateau', but data.train_on leaves no validation part to decide by: "
        "use 'steps' with the boundaries that a run on the train part alone has found",
    )


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
        (
            parse_duration(config.log.layers)[0] == 0,
            f"config.log.layers is {config.log.layers!r}, but most layers are not computed",
        ),
        (not config.model.get("auxiliary", False), "config.model.auxiliary is True: set it to False"),
    ):
        check(holds, f"config.cache_features is True, but {told}")
