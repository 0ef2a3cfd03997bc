"""Every switch of every family's recipe, trained on its bundled data: it learns, or the run reports that it did not.

All take hours on two cores. One family: `pytest -m nightly tests/training/test_switches.py -k toy`.
"""

import re

import pytest

from cnn_jax import models
from cnn_jax.config.durations import parse_duration
from cnn_jax.core.errors import NotFiniteError, UserError
from cnn_jax.eval import evaluation
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options
from recipes import NETWORKS, get_config

# For families whose networks differ only in depth, the smallest.
SMALLEST = {"resnet:ResNet": "resnet18", "resnet:SmallResNet": "resnet20", "vgg:VGG": "vgg11"}
BY_FAMILY = {models.MODELS[get_config(name).model.name].family: name for name in NETWORKS} | SMALLEST


def switches() -> list[tuple[str, str, object]]:
    """Returns (recipe, field, value) of all values that are not the recipe's own."""
    found = []
    for name in sorted(BY_FAMILY.values()):
        config = get_config(name)
        for field, option in models.options(config.model.name).items():
            values = (True, False) if option.type is bool else option.choices
            found += [(name, field, value) for value in values if value != config.model.get(field, option.default)]
    return found


def shortened(config, share: float):
    """Returns the recipe with `share` of its duration, without records that cost time and change nothing."""
    config = config.copy_and_resolve_references()
    number, unit = parse_duration(config.duration)
    config.duration = f"{number * share} {unit}"
    config.eval.every = config.checkpoint.every = config.duration
    config.log.trackers = ""
    return config


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "field", "value"), switches())
def test_a_switch_learns_or_the_run_says_not(tmp_path, console, name, field, value):
    config = get_config(name)
    config.model[field] = value
    try:
        for share in (0.25, 1.0):  # most have learned after a quarter of the recipe
            final = train.run(shortened(config, share), tmp_path / str(share), Options(console=console))
            if not evaluation.has_learned_little(final["test"]):
                return
    except NotFiniteError as error:
        assert "learning_rate" in str(error)
    except UserError as error:  # fields that exclude one another, or a variant for larger images
        told = field in str(error) or (field == "variant" and "an image of 67x67 is too small" in str(error))
        assert told and "first step" not in console.file.getvalue()
    else:
        last = console.file.getvalue().rpartition("first step")[2]
        assert re.search("note: the network has (not learned|learned little)", last)
