"""Which network weights are of, from names and shapes alone; torch is not needed, but for timm's own names."""

import math

import pytest
from flax import nnx

import torchvision_models
from cnn_jax import models
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import recognition, torchvision_weights
from tiers import quick


def theirs(name, num_classes=1000, **changes):
    """Returns torchvision's name -> shape of one of its networks."""
    ours, fields = torchvision_weights.NETWORKS[name]
    model = nnx.eval_shape(lambda: models.create(ours, num_classes=num_classes, **fields | changes))
    leaves = torchvision_weights._leaves(model)
    found = {}
    for path, full in torchvision_weights.names(model).items():
        shape = leaves[path].shape
        found[full] = shape[:-3:-1] + shape[:-2]
    return found


@pytest.mark.parametrize(
    "name", quick(torchvision_weights.NETWORKS, ("alexnet", "vgg11_bn", "squeezenet1_1", "resnet18"))
)
def test_all_networks_with_any_number_of_classes(name):
    ours, fields = torchvision_weights.NETWORKS[name]
    found = recognition.recognize(theirs(name, num_classes=7))
    assert (found.name, found.num_classes, found.channels, found.names) == (ours, 7, 3, {})
    for field, value in fields.items():
        if field != "input_shape":
            assert found.fields[field] == value, field
    defaults = models.fields(ours)
    for field, value in found.fields.items():  # nothing else is another than the plain one
        assert value == fields.get(field, defaults[field]), field


def test_auxiliary_classifiers_hidden_units_groups_and_channels():
    assert not recognition.recognize(theirs("googlenet", auxiliary=False)).fields["auxiliary"]
    assert recognition.recognize(theirs("vgg11", fc_sizes=(48, 40))).fields["fc_sizes"] == (48, 40)
    deeper = recognition.recognize(theirs("resnet101", groups=32, width_per_group=8))  # resnext101_32x8d
    assert (deeper.name, dict(deeper.fields)) == ("resnet101", dict(groups=32, width_per_group=8))
    assert recognition.recognize(theirs("resnet18", input_shape=(64, 64, 1))).channels == 1


def as_in_timm(shapes):
    """Returns shapes of VGG under timm's names: linear layers behind maps are convolutions, 7x7 and 1x1."""
    found = dict(shapes)
    for i, layer, kernel in ((0, "pre_logits.fc1", 7), (3, "pre_logits.fc2", 1), (6, "head.fc", 0)):
        rows, columns = found.pop(f"classifier.{i}.weight")
        found[f"{layer}.weight"] = (rows, columns // kernel**2, kernel, kernel) if kernel else (rows, columns)
        found[f"{layer}.bias"] = found.pop(f"classifier.{i}.bias")
    return found


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn", "vgg19"])
def test_names_of_timm(name):
    shapes = as_in_timm(theirs(name, num_classes=7))
    found = recognition.recognize(shapes)
    assert (found.name, found.num_classes, found.fields["fc_sizes"]) == (name.removesuffix("_bn"), 7, (4096, 4096))
    assert found.fields["norm"] == ("batch" if "bn" in name else "none")
    renamed = {there: ours for ours, there in found.names.items()}
    assert {renamed.get(full, full): math.prod(shape) for full, shape in shapes.items()} == {
        full: math.prod(shape) for full, shape in theirs(name, num_classes=7).items()
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg13", "vgg11_bn"])
def test_the_names_and_shapes_are_those_that_timm_has(name):
    torchvision_models.import_models()
    timm = pytest.importorskip("timm")
    import torch

    with torch.device("meta"):
        state = timm.create_model(name, num_classes=7).state_dict()
    shapes = {full: tuple(value.shape) for full, value in state.items() if not full.endswith("num_batches_tracked")}
    wanted = theirs(name, num_classes=7)
    assert shapes == (as_in_timm(wanted) if "vgg" in name else wanted)


@pytest.mark.parametrize(
    "shapes, told",
    [
        (
            {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "fc.weight": (10, 2048)},
            "Conv2d_1a_3x3.conv.weight [32, 3, 3, 3]",
        ),
        ({"features.0.0.weight": (32, 3, 3, 3)}, "features.0.0.weight"),
        ({"features.0.weight": (64, 3, 3, 3), "classifier.6.weight": (10, 4096)}, "features.0.weight [64, 3, 3, 3]"),
        ({"features.0.weight": ()}, "features.0.weight []"),
        (
            {"layer1.0.conv1.weight": (8,), "layer1.0.conv2.weight": (0, 0), "fc.weight": (10, 8)},
            "layer1.0.conv1.weight [8]",
        ),
        ({f"layer{i}.{n}.conv1.weight": (8, 8, 3, 3) for i in (1, 2, 3) for n in range(3)}, "layer1.0.conv1.weight"),
        ({f"layer.{i}": (1,) for i in range(100)}, "and 94 more"),
        ({}, "no network that is known"),
    ],
)
def test_an_unknown_network_is_refused(shapes, told):
    with pytest.raises(UserError) as error:
        recognition.recognize(shapes)
    assert told in str(error.value)
    assert "AlexNet, VGG-11" in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "vgg11_bn", "googlenet", "squeezenet1_1"])
@pytest.mark.parametrize("kind", ["none", "deeper", "without bias"])
def test_a_head_of_another_form_is_left_out(name, kind):
    shapes = theirs(name)
    last = "fc" if name in ("resnet18", "googlenet") else "classifier.1" if "squeeze" in name else "classifier.6"
    del shapes[f"{last}.bias"]
    if kind != "without bias":
        del shapes[f"{last}.weight"]
    if kind == "deeper":
        shapes |= {f"{last}.1.weight": (10, 512)}
    found = recognition.recognize(shapes)
    assert (found.name, found.num_classes) == (name.removesuffix("_bn"), 0)
    assert set(found.head) == {full for full in shapes if full.startswith(f"{last.split('.')[0]}.")}


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "encoder.body."])
def test_all_names_may_have_any_one_prefix(prefix):
    shapes = {f"{prefix}{full}": shape for full, shape in theirs("resnet18", num_classes=7).items()}
    found = recognition.recognize(shapes | {"queue": (128,)})
    assert (found.name, found.num_classes, found.prefix) == ("resnet18", 7, prefix)
