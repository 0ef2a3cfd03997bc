import pytest

from cnn_jax import models
from cnn_jax.reporting import published
from torchvision_models import import_models

WEIGHTS = {
    "alexnet": "AlexNet",
    "googlenet": "GoogLeNet",
    "squeezenet1_0": "SqueezeNet1_0",
    "squeezenet1_1": "SqueezeNet1_1",
}


def weights(network, fields):
    """Returns the enum of torchvision's weights for a network."""
    name = WEIGHTS.get(network, network.replace("resnet", "ResNet").replace("vgg", "VGG"))
    return getattr(import_models(), f"{name}{'_BN' if fields.get('norm') == 'batch' else ''}_Weights")


def test_torchvisions_numbers_equal_those_in_its_weights():
    results = [result for result in published.RESULTS if result.by == "torchvision"]
    assert len(results) == len(published.TORCHVISION_ACCURACY) + 1
    for result in results:
        chosen = weights(result.network, result.fields)[result.source.split()[-1]]
        carried, preset = chosen.meta["_metrics"]["ImageNet-1K"], chosen.transforms.keywords
        assert result.top1 == pytest.approx(100 - carried["acc@1"], abs=1e-9), result
        assert result.top5 == pytest.approx(100 - carried["acc@5"], abs=1e-9), result
        resize = preset.get("resize_size", 256)  # the default of the preset
        assert result.evaluation == f"shorter side to {resize}, center crop of {preset['crop_size']}", result


@pytest.mark.parametrize("result", published.RESULTS, ids=lambda r: f"{r.by}-{r.network}-{r.dataset}-{r.view}")
def test_results_name_known_networks_and_non_default_fields(result):
    assert result.by in ("paper", "torchvision") and result.evaluation and result.source
    defaults = models.fields(result.network)
    for name, value in result.fields.items():
        assert name in defaults and defaults[name] != value
    numbers = [number for number in (result.top5, result.top1) if number is not None]
    assert numbers and min(numbers) > 0 and max(numbers) < 60 and numbers == sorted(numbers)


def test_the_lectures_ensembles_are_here():
    errors = {result.top5 for result in published.RESULTS if result.view.endswith("networks")}
    assert {
        16.4,
        15.3,
        14.8,
        7.3,
        6.67,
        3.57,
    } <= errors  # slides: 16.4, 15.4 (its validation part), 14.8, 7.3, 6.7, 3.6


def test_no_result_is_listed_twice():
    keys = [(r.by, r.network, r.dataset, r.evaluation, r.source, str(r.fields)) for r in published.RESULTS]
    assert len(set(keys)) == len(keys)
    assert len({(r.top1, r.top5) for r in published.RESULTS}) == len(keys)  # nor is one listed under another network


def test_the_deepest_networks_of_a_paper_are_its_best():
    """Swapped digits or shifted rows would break the order that the papers report."""
    by_table = {}
    for result in published.RESULTS:
        fields = {name: value for name, value in result.fields.items() if name != "variant"}
        if result.network.startswith("resnet") and not fields and result.network != "resnet1202":
            number = (int(result.network.removeprefix("resnet")), result.top1)
            by_table.setdefault((result.dataset, result.view, result.by, result.source), []).append(number)
    compared = [sorted(numbers) for numbers in by_table.values() if len(numbers) > 1]
    assert len(compared) >= 4
    for numbers in compared:
        errors = [error for _, error in numbers]
        assert errors == sorted(errors, reverse=True)
