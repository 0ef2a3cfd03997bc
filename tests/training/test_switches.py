"""Every switch of every family's recipe, trained on its bundled data: it learns, or the run says that it has not.

All take hours on two cores. One family: `pytest -m nightly tests/training/test_switches.py -k toy`.
"""

import pytest

from cnn_jax import models
from cnn_jax.core.errors import NotFiniteError, UserError
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options
from recipes import NETWORKS, get_config

# Of families whose networks differ in depth only, the smallest.
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


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "field", "value"), switches())
def test_a_switch_learns_or_the_run_says_not(tmp_path, console, name, field, value):
    config = get_config(name)
    config.model[field] = value
    try:
        final = train.run(config, tmp_path, Options(console=console))
    except NotFiniteError as error:
        assert "learning_rate" in str(error)
    except UserError as error:  # fields that exclude one another, before the first step
        assert field in str(error) and "first step" not in console.file.getvalue()
    else:
        said = "note: the network has not learned" in console.file.getvalue()
        assert said or final["test"]["error"] < 0.5
