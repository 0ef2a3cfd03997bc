import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.config import recipes
from cnn_jax.config.durations import in_steps, is_due, parse_duration, to_steps
from cnn_jax.config.fields import get, model_fields
from cnn_jax.core.errors import UserError
from cnn_jax.data.augmentations import FORMS, parse
from cnn_jax.training.config_check import check_config

# ---------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("14 epochs", (14.0, "epochs")),
        ("64000steps", (64000.0, "steps")),
        ("1 epoch", (1.0, "epochs")),
        ("1 step", (1.0, "steps")),
        ("1 example", (1.0, "examples")),
        ("  0.5   epochs ", (0.5, "epochs")),
        ("1e6 examples", (1e6, "examples")),
        ("2.5E-1 epochs", (0.25, "epochs")),
        ("3. epochs", (3.0, "epochs")),
        ("0 steps", (0.0, "steps")),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, parsed):
    assert parse_duration(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        *("", "10", "epochs", "ten epochs", "-1 epochs", "1.2.3 epochs", "1e epochs", ".5 epochs", "inf epochs"),
        *("nan steps", "5 minutes", "1 EPOCHS", "1 epochs 2 steps", "1,000 steps", "10 epochss", "1 e", None, 14),
    ],
)
def test_anything_else_is_an_error_that_names_the_field(text):
    with pytest.raises(UserError) as error:
        parse_duration(text, field="config.eval.every")
    message = str(error.value)
    assert message.startswith(f"config.eval.every is {text!r}")
    assert "steps, epochs, examples" in message and "'14 epochs'" in message


def test_a_mistyped_unit_gets_its_near_match():
    with pytest.raises(UserError, match=r"did you mean 'epochs'\?"):
        parse_duration("14 epoches")


sizes = st.integers(1, 100_000)


@given(st.integers(0, 10**9), sizes, sizes)
def test_steps_are_steps(number, batch_size, num_examples):
    assert to_steps(f"{number} steps", batch_size=batch_size, num_examples=num_examples) == number


@given(st.integers(1, 1000), st.integers(1, 1000), sizes)
def test_epochs_are_passes_over_the_examples(epochs, steps_per_epoch, batch_size):
    given = dict(batch_size=batch_size, num_examples=steps_per_epoch * batch_size)
    assert to_steps(f"{epochs} epochs", **given) == epochs * steps_per_epoch
    assert to_steps(f"{epochs * given['num_examples']} examples", **given) == epochs * steps_per_epoch


@given(st.floats(0, 1e6), st.sampled_from(["steps", "epochs", "examples"]), sizes, sizes)
def test_whole_steps_are_the_nearest_and_at_least_one(number, unit, batch_size, num_examples):
    given = dict(batch_size=batch_size, num_examples=num_examples)
    exact = in_steps(f"{number:.6f} {unit}", **given)
    steps = to_steps(f"{number:.6f} {unit}", **given)
    scale = {"steps": 1, "epochs": num_examples / batch_size, "examples": 1 / batch_size}[unit]
    assert math.isclose(exact, float(f"{number:.6f}") * scale, rel_tol=1e-12)
    assert isinstance(steps, int)
    if exact == 0:
        assert steps == 0
    elif exact < 1:
        assert steps == 1
    else:
        assert abs(steps - exact) <= 0.5


@given(st.floats(0.001, 300), st.integers(1, 2000))
def test_periods_fall_on_the_step_nearest_to_each_multiple(period, steps):
    due = [step for step in range(1, steps + 1) if is_due(step, period)]
    if period <= 1:
        assert due == list(range(1, steps + 1))
        return
    assert len(due) == int((steps + 0.5) / period)
    for k, step in enumerate(due, start=1):
        assert abs(step - k * period) <= 0.5 + 1e-6


def test_a_fractional_epoch_does_not_drift():
    # 1258 examples in batches of 64: 19.65625 steps an epoch. Ten epochs end after 196.56 steps: at 197, not 10 * 20.
    period = in_steps("1 epochs", batch_size=64, num_examples=1258)
    due = [step for step in range(1, 198) if is_due(step, period)]
    assert due == [20, 39, 59, 79, 98, 118, 138, 157, 177, 197]
    assert to_steps("10 epochs", batch_size=64, num_examples=1258) == 197


# ---------------------------------------------------------------- the check of a configuration


def changed(values):
    """Returns the configuration of ResNet-20 on digits with other values; their names are dotted."""
    config = recipes.get_config("resnet20")
    for field, value in values.items():
        parent, _, name = field.rpartition(".")
        section = get(config, parent) if parent else config
        with section.ignore_type():
            section[name] = value
    return config


MEAN = {"data.mean": (0.5,), "data.std": (0.25,)}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"batch_size": 8, "accumulation": 4},
        {"seed": 0, "label_smoothing": 0.0, "ema_decay": 0.999, "optim.momentum": 0.0, "precision": "bfloat16"},
        {"optim.schedule.warmup": "0 steps", "optim.schedule.factor": 1.0, "optim.schedule.boundaries": ()},
        {"optim.schedule.name": "plateau", "optim.schedule.warmup_shape": "constant", "optim.decay_style": "decoupled"},
        {"data.train_on": "train+validation"},
        {"data.placement": "stream", "data.normalize": "none"},
        {"data.placement": "stream", "data.train_crop": "random_resized", **MEAN},
        {"data.test_crop": "center", "data.test_resize": 16},
        *(
            {"data.placement": "stream", "data.train_crop": crop, "data.train_resize": sides, **MEAN}
            for crop in ("random", "random_central")
            for sides in ((16, 16), (20, 40))
        ),
        {"data.train_resize": (1, 2)},  # has no effect without a random crop
        {"data.augment": ("pad_crop:4", "flip")},
        {"data.augment": ("flip", "rand_augment:2:9", "random_erasing:0.25", "mixup:0.2")},
        {"data.augment": ("cutmix:1.0",), "data.channels": 2},
        {"data.augment": ("vertical_flip", "rotation:15", "gaussian_blur:0.5:9:2.0", "cutmix:1.0", "mixup:0.2")},
        {"data.augment": ("color_jitter:0.4:0:0:0", "auto_augment:cifar10", "trivial_augment"), "data.channels": 3},
        {"data.augment": ("pca_color:0.1", "rand_augment:2:9"), "data.channels": 3},
        {"model.residual": False, "model.shortcut": "C"},
        {"model.name": "cifar_resnet", "model.depth": 8},
    ],
)
def test_a_possible_configuration_passes(values):
    check_config(changed(values))


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        # the network
        ({"model.name": "resnt20"}, ["model.name", "did you mean 'resnet20'"]),
        ({"model.resdual": False}, ["config.model.resdual", "did you mean 'residual'"]),
        ({"model.xyzzy": 1}, ["config.model.xyzzy", "resnet20 has no such field", "zero_gamma"]),
        # set by the data set, the precision and the name
        *(
            ({f"model.{field}": None}, [f"config.model.{field}: resnet20 has no such field"])
            for field in ("num_classes", "input_shape", "dtype", "layout")
        ),
        # above zero
        *(
            ({field: value}, [f"config.{field} is {value}", "above 0"])
            for field in ("batch_size", "eval.batch_size", "accumulation", "checkpoint.keep", "data.workers")
            for value in (0, -1)
        ),
        # not below zero
        *(
            ({field: -1}, [f"config.{field} is -1", "negative"])
            for field in ("seed", "optim.weight_decay", "optim.clip_norm", "optim.learning_rate")
        ),
        *(({field: -1.0}, [f"config.{field} is -1.0", "negative"]) for field in ("log.stall",)),
        ({"mesh.model": 0}, ["config.mesh.model is 0", "above 0"]),
        ({"mesh.preset": "fdsp"}, ["config.mesh.preset is 'fdsp'", "did you mean 'fsdp'"]),
        *(
            ({field: -1}, [f"config.{field} is -1", "negative"])
            for field in ("eval.recompute_statistics", "optim.schedule.patience", "optim.schedule.min_improvement")
        ),
        # shares
        *(
            ({field: value}, [f"config.{field} is {value}", "[0, 1)"])
            for field in ("label_smoothing", "ema_decay", "optim.momentum")
            for value in (-0.1, 1.0)
        ),
        ({"batch_size": 64, "norm_group": 24}, ["config.norm_group is 24", "divide the 64 images of a batch"]),
        ({"batch_size": 64, "accumulation": 3}, ["config.accumulation is 3", "divide config.batch_size, 64"]),
        # durations
        *(
            ({field: value}, [f"config.{field} is {value!r}"])
            for field in ("duration", "eval.every", "checkpoint.every", "log.every", "optim.schedule.interval")
            for value in ("0 epochs", "5 minutes")
        ),
        ({"optim.schedule.warmup": "soon"}, ["config.optim.schedule.warmup is 'soon'"]),
        ({"optim.schedule.boundaries": ("3 epochs", "6")}, ["config.optim.schedule.boundaries is '6'"]),
        # the schedule
        ({"optim.schedule.factor": 0.0}, ["config.optim.schedule.factor is 0.0", "(0, 1]"]),
        ({"optim.schedule.factor": 1.5}, ["config.optim.schedule.factor is 1.5", "(0, 1]"]),
        ({"optim.schedule.patience": 0}, ["config.optim.schedule.patience is 0"]),
        (
            {"optim.schedule.name": "plateau", "data.train_on": "train+validation"},
            ["config.optim.schedule.name is 'plateau'", "data.train_on"],
        ),
        # choices
        *(
            ({field: "xyzzy"}, [f"config.{field} is 'xyzzy', but must be one of ", choice])
            for field, choice in (
                ("precision", "bfloat16"),
                ("optim.decay_style", "decoupled"),
                ("optim.schedule.name", "plateau"),
                ("optim.schedule.warmup_shape", "linear"),
                ("data.source", "tfds"),
                ("data.placement", "stream"),
                ("data.normalize", "pixel"),
                ("data.train_crop", "random_resized"),
                ("data.test_crop", "center"),
                ("data.train_on", "train+validation"),
            )
        ),
        # images
        ({"data.image_size": (16,)}, ["config.data.image_size is (16,)", "(height, width)"]),
        ({"data.image_size": (16, 0)}, ["config.data.image_size is (16, 0)", "at least 1"]),
        ({"data.test_crop": "center", "data.test_resize": 15}, ["config.data.test_resize is 15", "at least 16"]),
        (
            {"data.test_crop": "center", "data.test_resize": 31, "data.image_size": (16, 32)},
            ["config.data.test_resize is 31", "at least 32"],
        ),
        ({"data.placement": "stream"}, ["config.data.normalize is 'channel'", "config.data.mean"]),
        ({"data.placement": "stream", "data.normalize": "pixel"}, ["config.data.normalize is 'pixel'", "'device'"]),
        ({"data.placement": "stream", "data.normalize": "pixel", **MEAN}, ["config.data.normalize is 'pixel'"]),
        ({"data.mean": (0.5, 0.5), "data.std": (0.2, 0.2)}, ["config.data.mean (0.5, 0.5)", "each of 1 channels"]),
        ({"data.mean": (0.5,)}, ["config.data.mean (0.5,) and std ()"]),
        *(
            ({"data.train_crop": crop}, [f"config.data.train_crop is {crop!r}", "'stream'"])
            for crop in ("random_resized", "random", "random_central")
        ),
        *(
            (
                {"data.placement": "stream", "data.train_crop": "random", "data.train_resize": sides, **MEAN},
                [f"config.data.train_resize is {sides}", message],
            )
            for sides, message in (
                ((16,), "(lowest, highest)"),
                ((16, 32.5), "(lowest, highest)"),
                ((32, 16), "(lowest, highest)"),
                ((15, 32), "at least 16"),
            )
        ),
        ({"data.scaled_decoding": True}, ["config.data.scaled_decoding is True, which is for stored pictures"]),
        ({"data.prefetch": 0}, ["config.data.prefetch is 0, but must be above 0"]),
        ({"data.timeout": 0.0}, ["config.data.timeout is 0.0, but must be above 0"]),
        # augmentation
        ({"data.augment": ("flip", "rotate:3")}, ["config.data.augment is 'rotate'", "pad_crop, flip"]),
        ({"data.augment": (4,)}, ["config.data.augment has 4", "'flip'"]),
        ({"data.augment": ("pad_crop:16",)}, ["config.data.augment has 'pad_crop:16'", "(16, 16)"]),
        ({"data.augment": ("pca_color:0.1",)}, ["'pca_color:0.1'", "3 channels", "config.data.channels is 1"]),
        ({"data.augment": ("rand_augment:2:9",), "data.channels": 2}, ["1 or 3 channels", "config.data.channels is 2"]),
        ({"data.augment": ("mixup:0.2", "flip")}, ["config.data.augment has 'mixup:0.2' before 'flip'", "last"]),
        ({"data.augment": ("mixup:0.2", "mixup:0.4")}, ["'mixup:0.2' before 'mixup:0.4'", "each of them once"]),
        ({"data.augment": ("cutmix:1.0", "mixup:0.2", "flip")}, ["'cutmix:1.0' before 'flip'", "must come last"]),
        ({"data.augment": ("gaussian_blur:1:4:2",)}, ["'gaussian_blur:1:4:2'", "odd side"]),
        ({"data.augment": ("gaussian_blur:1:33:2",)}, ["'gaussian_blur:1:33:2'", "odd side", "(16, 16)"]),
        ({"data.augment": ("auto_augment:svhn",)}, ["'auto_augment:svhn'", "imagenet or cifar10"]),
        ({"data.augment": ("color_jitter:0.4:0.4:0.4:0.6",)}, ["'color_jitter:0.4:0.4:0.4:0.6'", "at most 0.5"]),
        ({"data.augment": ("augmix:3",), "data.channels": 2}, ["1 or 3 channels", "config.data.channels is 2"]),
        (
            {"data.augment": ("cutmix:1.0",), "batch_size": 8, "accumulation": 8},
            ["config.data.augment has 'cutmix:1.0'", "config.accumulation 8", "larger batches"],
        ),
    ],
)
def test_an_impossible_value_is_a_users_error_that_names_its_field(values, messages):
    with pytest.raises(UserError) as error:
        check_config(changed(values))
    for message in messages:
        assert message in str(error.value)


def test_a_configuration_without_a_network_is_a_users_error():
    config = recipes.get_config("resnet20")
    del config.model["name"]
    with pytest.raises(UserError, match=re.escape("config.model has no name")):
        check_config(config)


def test_the_command_line_can_only_reach_fields_of_the_network():
    # One network may have a field that another does not have.
    config = recipes.get_config("lenet5")
    check_config(config)
    config.model.shortcut = "A"
    with pytest.raises(UserError, match=re.escape("config.model.shortcut: lenet5 has no such field")):
        check_config(config)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("pad_crop:4", ("pad_crop", (4,))),
        ("pad_crop:12", ("pad_crop", (12,))),
        ("flip", ("flip", ())),
        ("random_erasing:1", ("random_erasing", (1.0,))),
        ("rand_augment:2:9", ("rand_augment", (2, 9))),
        ("mixup:0.25", ("mixup", (0.25,))),
    ],
)
def test_an_augmentation_is_a_kind_and_its_numbers(name, parsed):
    assert parse(name) == parsed


@pytest.mark.parametrize("kind", FORMS)
def test_examples_of_augmentations_are_valid_other_counts_not(kind):
    example = FORMS[kind].example
    assert parse(example)[0] == kind
    for wrong in (example + ":1", kind + ":", example + ":", kind if ":" in example else f"{kind}:1"):
        with pytest.raises(UserError) as error:
            parse(wrong)
        assert f"config.data.augment has {wrong!r}" in str(error.value) and repr(example) in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in FORMS if ":" in FORMS[kind].example])
@pytest.mark.parametrize("text", ["0", "-1", "0.0", "x", "", " 1", "1e0", "nan", "inf", "+1", "٣", "1_0", "9" * 30])
def test_augmentations_need_numbers_above_zero(kind, text):
    _, first, *others = FORMS[kind].example.split(":")
    if kind == "color_jitter" and text in ("0", "0.0"):
        assert parse(":".join([kind, text, *others]))[1][0] == 0  # no change of it
        return
    with pytest.raises(UserError, match="but must be as in"):
        parse(":".join([kind, text, *others]))
    parse(":".join([kind, first, *others]))


@pytest.mark.parametrize(
    "name", ["random_erasing:1.1", "rand_augment:2:11", "rand_augment:11:2", "rand_augment:2:0.5", "pad_crop:0.5"]
)
def test_numbers_have_their_type_and_their_largest_value(name):
    with pytest.raises(UserError, match="but must be as in"):
        parse(name)


def test_a_dotted_name_reaches_a_nested_field():
    config = recipes.get_config("resnet20")
    assert get(config, "optim.schedule.patience") == config.optim.schedule.patience
    assert get(config, "seed") == config.seed


def test_the_fields_of_the_network_are_its_configuration_without_the_name():
    config = recipes.get_config("lenet5")
    fields = model_fields(config)
    assert fields["padding"] == 2 and "name" not in fields
    assert len(fields) == len(config.model) - 1
