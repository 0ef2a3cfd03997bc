"""Weights of others as a SOURCE: from a picture to scores, equal to those of the framework that they come from."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from flax import nnx
from safetensors.numpy import save_file

import cnn_jax
import torchvision_models
from cnn_jax import models
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import predictor, torchvision_weights
from cnn_jax.pretrained import source as pretrained
from tiers import quick

PHOTOS = [str(Path(sklearn.datasets.__file__).parent / "images" / name) for name in ("china.jpg", "flower.jpg")]
NAMES = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def torch_batch(mean, std, *, resize=256, size=224):
    """Returns the photos as torchvision's evaluation sees them, [B, 3, H, W], and their pixels before normalization."""
    import torch
    from PIL import Image
    from torchvision import transforms

    crop = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(size)])
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    cropped = [crop(Image.open(photo).convert("RGB")) for photo in PHOTOS]
    return torch.stack([finish(image) for image in cropped]), np.stack([np.asarray(image) for image in cropped])


def compare(path, network, *, mean=NAMES["mean"], std=NAMES["std"]):
    """Fails unless the scores of the photos are those of the torch network; returns what was loaded."""
    import torch

    batch, pixels = torch_batch(mean, std)
    with torch.no_grad():
        theirs = network.eval()(batch).numpy()
    ours = cnn_jax.load(path)
    np.testing.assert_array_equal(ours.prepare(PHOTOS), pixels)
    scores = np.asarray(ours(PHOTOS))
    scale = np.max(np.abs(theirs))
    assert np.max(np.abs(theirs[0] - theirs[1])) > 1e-2 * scale  # the photo matters
    assert np.max(np.abs(scores - theirs)) < 1e-4 * scale
    assert ours.source.num_classes == len(ours.classes) == theirs.shape[1]
    return ours


def numpy_state(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", quick(["squeezenet1_1", "resnet18"], ["squeezenet1_1"]))
def test_scores_of_torchvision_from_both_kinds_of_files(tmp_path, name):
    network = torchvision_models.random_torch_network(name, gain=0.7 if "res" in name else 1.0, num_classes=7)
    import torch

    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "x.pth")
    save_file(numpy_state(network), tmp_path / "x.safetensors")
    for file in (tmp_path / "x.pth", tmp_path / "x.safetensors"):
        loaded = compare(file, network)
        about = loaded.source.description
        for part in (name, str(file), "7 classes, names unknown", "[0.485, 0.456, 0.406]", "256 pixels", "224x224"):
            assert part in about
        assert ("its entry 'model', not epoch" in about) == (file.suffix == ".pth")
        assert loaded.source.classes is None and loaded.classes == [str(i) for i in range(7)]


@pytest.mark.slow
def test_scores_of_googlenet_with_its_own_normalization(tmp_path):
    """Given images as ImageNet's networks take them, torchvision's pretrained GoogLeNet transforms them itself."""
    fields = dict(num_classes=5, aux_logits=True, init_weights=False, transform_input=True)
    network = torchvision_models.random_torch_network("googlenet", **fields)
    import torch

    torch.save(network.state_dict(), tmp_path / "x.pth")
    loaded = compare(tmp_path / "x.pth", network)
    assert "mean [0.5, 0.5, 0.5] and deviation [0.5, 0.5, 0.5]" in loaded.source.description
    assert loaded.source.model["auxiliary"] and loaded.source.model["variant"] == "torchvision"
    without = {name: value for name, value in network.state_dict().items() if not name.startswith("aux")}
    torch.save(without, tmp_path / "y.pth")
    again = pretrained.open_source(str(tmp_path / "y.pth"))
    assert not again.model["auxiliary"]
    assert {name for name in loaded.source.leaves if "auxiliary" not in name} == set(again.leaves)


class TimmVGG:
    """VGG-11 with timm's head, as its source has it: convolutions instead of linear layers, then a classifier."""

    def __new__(cls, num_classes=7, hidden=48):
        from collections import OrderedDict

        from torch import nn

        features = torchvision_models.random_torch_network("vgg11").features
        mlp = [("fc1", nn.Conv2d(512, hidden, 7)), ("act1", nn.ReLU()), ("fc2", nn.Conv2d(hidden, hidden, 1))]
        head = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(hidden, num_classes))
        layers = OrderedDict(features=features, pre_logits=nn.Sequential(OrderedDict([*mlp, ("act2", nn.ReLU())])))
        network = nn.Sequential(layers | {"head": nn.Sequential(head)})
        torchvision_models.randomize(network)
        return network


def test_scores_of_vgg_with_the_names_of_timm(tmp_path):
    torchvision_models.import_models()
    network = TimmVGG()
    save_file(numpy_state(network), tmp_path / "x.safetensors")
    loaded = compare(tmp_path / "x.safetensors", network)
    assert loaded.source.model["fc_sizes"] == (48, 48)


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_scores_of_timm_itself(tmp_path, name):
    torchvision_models.import_models()
    timm = pytest.importorskip("timm")
    import torch

    if name == "vgg11":
        from timm.models import vgg

        network = vgg.VGG(vgg.cfgs["vgg11"], num_classes=7)
        network.pre_logits, network.head.fc = vgg.ConvMlp(512, 48, 7), torch.nn.Linear(48, 7)
    else:
        network = timm.create_model(name, num_classes=7)
    torchvision_models.randomize(network, gain=0.7 if name == "resnet18" else 1.0)
    torch.save(network.state_dict(), tmp_path / "x.bin")
    compare(tmp_path / "x.bin", network)


# ---------------------------------------------------------------- without torch


def small_state(**changes):
    """Returns the random state dict of a ResNet-18 with torchvision's names."""
    model = nnx.eval_shape(lambda: models.create("resnet18", num_classes=7, input_shape=(64, 64, 3), **changes))
    return torchvision_weights.export(torchvision_models.random_weights(model))


@pytest.fixture(scope="module")
def state():
    return small_state()


def test_half_precision_is_converted_and_reported(tmp_path, state):
    half = {name: value.astype(np.float16) for name, value in state.items()}
    save_file(half, tmp_path / "x.safetensors")
    found = pretrained.open_source(str(tmp_path / "x.safetensors"))
    assert "converted from float16" in found.description
    np.testing.assert_array_equal(found.leaves["head/classifier/kernel"], half["fc.weight"].T.astype(np.float32))
    assert {leaf.dtype for leaf in found.leaves.values()} == {np.dtype(np.float32)}


def test_a_variant_is_refused_with_all_that_does_not_fit(tmp_path, state):
    """The stem of resnet18d, and squeeze and excitation."""
    changed = dict(state)
    for i, shape in ((0, (32, 3, 3, 3)), (3, (32, 32, 3, 3)), (6, (64, 32, 3, 3))):
        changed[f"conv1.{i}.weight"] = np.zeros(shape, np.float32)
    del changed["conv1.weight"]
    changed["layer1.0.se.fc1.weight"] = np.zeros((4, 64, 1, 1), np.float32)
    changed["layer4.1.bn2.bias"] = np.zeros(3, np.float32)
    save_file(changed, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.open_source(str(tmp_path / "x.safetensors"))
    for part in (
        *(
            "x.safetensors looks like resnet18, but",
            "1 missing: conv1.weight",
            "4 left over: conv1.0.weight, conv1.3",
        ),
        *("layer1.0.se.fc1.weight", "layer4.1.bn2.bias is [3], but conv5_x/1/norm2/bias needs [512]"),
    ):
        assert part in str(error.value)


def test_an_unknown_network_is_refused_with_the_file_named(tmp_path):
    save_file({"Conv2d_1a_3x3.conv.weight": np.zeros((2, 3, 3, 3), np.float32)}, tmp_path / "inception_v3.safetensors")
    with pytest.raises(UserError, match=r"inception_v3.safetensors cannot be used: .*Known are AlexNet"):
        pretrained.open_source(str(tmp_path / "inception_v3.safetensors"))


@pytest.mark.parametrize("name, shape", [("fc.weight", (1, 512)), ("layer1.0.conv1.weight", (3,))])
def test_sizes_that_no_network_has(tmp_path, state, name, shape):
    save_file(state | {name: np.zeros(shape, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=r"x.safetensors looks like resnet18, .*(num_classes is 1|conv1.weight is \[3\])"
    ):
        pretrained.open_source(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_have_an_assumed_mean(tmp_path, channels):
    model = nnx.eval_shape(lambda: models.create("resnet18", num_classes=7, input_shape=(64, 64, channels)))
    save_file(torchvision_weights.export(torchvision_models.random_weights(model)), tmp_path / "x.safetensors")
    found = pretrained.open_source(str(tmp_path / "x.safetensors"))
    assert found.input["channels"] == channels and found.input["mean"] == [0.449] * channels
    assert "as is assumed" in found.description


def test_weights_without_a_head_can_be_trained_and_not_used(tmp_path, state):
    body = {f"net.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    save_file(body | {"queue": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    found = pretrained.open_source(str(tmp_path / "x.safetensors"))
    assert "head/classifier/kernel" not in found.leaves and "conv1/kernel" in found.leaves
    assert "no head" in found.description and "left out: queue" in found.description
    with pytest.raises(UserError, match=r"x\.safetensors has no head .* cnn_jax finetune"):
        predictor.build(found)


def test_misfits_are_found_before_anything_is_read(tmp_path, state, monkeypatch):
    save_file(state | {"layer1.weight": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    monkeypatch.setattr("cnn_jax.pretrained.state_dicts.StateDict.read", lambda self: pytest.fail("read"))
    with pytest.raises(UserError, match=r"1 left over: layer1\.weight"):
        pretrained.open_source(str(tmp_path / "x.safetensors"))


def test_the_model_says_everything_that_the_network_computes(tmp_path, state):
    """A configuration for small images may have other fields at other values: all of them come from the source."""
    save_file(state, tmp_path / "x.safetensors")
    model = pretrained.open_source(str(tmp_path / "x.safetensors")).model
    assert model["name"] == "resnet18" and model["width"] == 1.0 and model["activation"] == "relu"
    left_out = set(models.fields("resnet18")) - set(model)
    assert left_out == {
        *("layout", "depth", "num_classes", "input_shape", "dropout", "stochastic_depth", "zero_gamma", "norm_decay"),
        *("init", "dtype"),
    }
