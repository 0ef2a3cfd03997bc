"""Networks read from the Hugging Face Hub, a server on this computer, and what their config.json says."""

import functools
import json
import re
import sys

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

import hub_server
import torchvision_models
from cnn_jax import models
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import hub, torchvision_weights
from cnn_jax.pretrained import source as pretrained
from hub_server import COMMIT

CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "label_descriptions": {"a": "ant", "b": "bee"},
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 96, 96],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.3, 0.2, 0.1],
    },
}


@functools.cache
def weights():
    """Returns a file of random weights of ResNet-18 with 3 classes."""
    model = nnx.eval_shape(lambda: models.create("resnet18", num_classes=3, input_shape=(96, 96, 3)))
    return save(torchvision_weights.export(torchvision_models.random_weights(model)))


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub_server.serving(tmp_path / "cache", monkeypatch) as repositories:
        yield repositories


def put(served, config=CONFIG, name="timm/resnet18.a1", **files):
    served[name] = {"model.safetensors": weights(), "config.json": json.dumps(config).encode(), **files}


def refused(source, *parts):
    with pytest.raises(UserError) as error:
        pretrained.open_source(source)
    for part in parts:
        assert part in str(error.value), error.value


def test_weights_with_timms_configuration(served):
    put(served)
    found = pretrained.open_source("hub:timm/resnet18.a1")
    assert found.name == f"hub:timm/resnet18.a1@{COMMIT}"  # for good
    assert found.model["name"] == "resnet18"
    assert found.input == {
        **{"image_size": [96, 96], "channels": 3, "test_crop": "center", "interpolation": "bicubic"},
        "test_resize": 101,  # timm: floor(96 / 0.95)
        **{"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "classes": ["ant", "bee", "c"]},
    }
    for part in (
        "3 classes;",
        "as its config.json says",
        "101 pixels, bicubic, center of 96x96",
    ):
        assert part in found.description
    assert pretrained.open_source(found.name).name == found.name
    assert pretrained.open_source("hub:timm/resnet18.a1@v1").name == found.name


def test_safetensors_come_first_and_bin_if_there_are_none(served):
    torch = pytest.importorskip("torch")
    import io

    from safetensors.torch import load

    buffer = io.BytesIO()
    torch.save(load(weights()), buffer)
    put(served, **{"pytorch_model.bin": b"not read"})
    first = pretrained.open_source("hub:timm/resnet18.a1")
    served["other/net"] = {"pytorch_model.bin": buffer.getvalue()}
    second = pretrained.open_source("hub:other/net")
    for name, leaf in first.leaves.items():
        np.testing.assert_array_equal(leaf, second.leaves[name])
    # Without a config.json it is torchvision's convention.
    assert (second.input["mean"][0], second.input["test_resize"], second.classes) == (0.485, 256, None)
    assert "as in torchvision" in second.description


def test_missing_repositories_files_and_revisions(served):
    put(served)
    refused("hub:timm/none", "the Hub has no timm/none")
    refused("hub:timm/resnet18.a1@v2", "has no revision 'v2'")
    served["some/data"] = {"README.md": b""}
    refused("hub:some/data", "has none of model.safetensors, pytorch_model.bin")
    served["meta/gated"] = "gated"
    refused("hub:meta/gated", "accept terms")
    for name in ("resnet18", "", "a/b/c", "../x/y", "a/b c"):
        refused(f"hub:{name}", "names nothing: write hub:OWNER/NAME")


def test_offline_reads_the_cache_or_gives_one_message(served, tmp_path, monkeypatch):
    put(served)
    found = pretrained.open_source("hub:timm/resnet18.a1")
    library = sys.modules["huggingface_hub"]
    # As without a network, but without the library's 24 seconds of trying.
    monkeypatch.setattr(library, "hf_hub_download", functools.partial(library.hf_hub_download, local_files_only=True))
    assert pretrained.open_source("hub:timm/resnet18.a1").name == found.name
    refused("hub:timm/resnet34.a1", "the Hub cannot be reached", "hf download timm/resnet34.a1")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hub:timm/resnet18.a1", "pip install 'cnn-jax[hub]'")


# ---------------------------------------------------------------- config.json


def described(num_classes=3, **changes):
    config = {**CONFIG, "pretrained_cfg": CONFIG["pretrained_cfg"] | changes}
    return hub.describe(config, "hub:x/y", num_classes)


def test_the_file_before_2023_has_its_fields_in_one_level():
    fields, _ = hub.describe({"architecture": "resnet18", **CONFIG["pretrained_cfg"]}, "hub:x/y", 3)
    assert (fields["test_resize"], fields["mean"]) == (101, [0.5, 0.4, 0.3])


def test_every_difference_from_timm_is_reported():
    assert described(interpolation="bilinear", crop_pct=0.875)[1] == []
    assert described(interpolation="bicubic")[0]["interpolation"] == "bicubic"
    fields, notes = described(interpolation="lanczos")
    assert fields["interpolation"] == "bilinear" and "made for lanczos resizing, here it is bilinear" in notes[0]
    assert "crop_mode 'squash'" in " ".join(described(crop_mode="squash")[1])
    fields, notes = described(num_classes=4)
    assert "classes" not in fields and "label_names are not one for each of the 4 classes" in notes[-1]


def test_classes_with_one_description_keep_their_names():
    config = CONFIG | {"label_descriptions": {"a": "crane", "b": "crane"}}
    assert hub.describe(config, "hub:x/y", 3)[0]["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name", ["resnetblur50", "resnetaa50", "seresnet50", "resnet50_gn", "vit_base", "resnet18x", 7]
)
def test_architectures_with_the_names_of_others_are_refused(name):
    with pytest.raises(UserError, match=re.escape(f"is of the architecture {name!r}, which is not built here")):
        hub.describe(CONFIG | {"architecture": name}, "hub:x/y", 3)
    for name in ("tv_resnet50", "gluon_resnet50_v1b", "resnext50_32x4d", "wide_resnet50_2", "vgg16_bn"):
        hub.describe(CONFIG | {"architecture": name}, "hub:x/y", 3)
    with pytest.raises(UserError, match="a resnet18 with other act_layer"):
        hub.describe(CONFIG | {"model_args": {"act_layer": "silu", "num_classes": 3}}, "hub:x/y", 3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"mean": "0.5"}, {"std": [1, None]}, {"input_size": [3, 224, 192]}, {"input_size": [3, 10**9, 10**9]}),
        *({"crop_pct": 0}, {"crop_pct": True}, {"crop_pct": 1e-9}, {"input_size": 224}, {"mean": [float("nan")] * 3}),
    ],
)
def test_impossible_values_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"config.json says {name} "):
        described(**changes)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=3), VALUES, max_size=2)
FIELDS = st.dictionaries(st.sampled_from([*CONFIG, *CONFIG["pretrained_cfg"], "model_args", "crop_mode"]), JSON)


@given(config=FIELDS, inner=FIELDS)
def test_any_json_is_described_or_refused(config, inner):
    for content in (config, config | {"pretrained_cfg": inner}):
        try:
            fields, _ = hub.describe(content, "hub:x/y", 3)
        except UserError as error:
            assert "hub:x/y" in str(error)
        else:
            assert fields["image_size"][0] <= fields["test_resize"]


def test_a_damaged_config_and_a_damaged_normalization(served):
    put(served, **{"config.json": b"{"})
    refused("hub:timm/resnet18.a1", "its config.json is damaged")
    put(served, CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | {"std": [0, 1, 1]}}, name="other/net")
    refused("hub:other/net", "the normalization known for it is")
