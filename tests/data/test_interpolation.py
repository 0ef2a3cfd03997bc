"""Bicubic resizing: Pillow's, in every crop, in tests and in prediction."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import cnn_jax
from cnn_jax.core.errors import UserError
from cnn_jax.data import crops
from cnn_jax.data.decode import Picture
from cnn_jax.eval import views
from cnn_jax.pretrained.source import open_source, save
from cnn_jax.tracking import run_folder
from torchvision_models import import_models

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
BICUBIC = Image.Resampling.BICUBIC


def by_pillow(size, box=None):
    return np.asarray(Image.fromarray(IMAGE).resize((size[1], size[0]), BICUBIC, box=box))


def view(**fields):
    given = dict(
        image_size=(24, 20), train_crop="resize", train_resize=(30, 40), test_crop="resize", test_resize=30,
        scaled_decoding=False, placement="stream", interpolation="bicubic",
    )  # fmt: skip
    return SimpleNamespace(**given | fields)


def test_the_whole_image_is_resized_as_pillow_does(tmp_path):
    np.testing.assert_array_equal(crops.resize(IMAGE, (24, 20), "bicubic"), by_pillow((24, 20)))
    np.testing.assert_array_equal(crops.crop(IMAGE, view(), train=False), by_pillow((24, 20)))
    np.testing.assert_array_equal(crops.crop(IMAGE, view(), train=True), by_pillow((24, 20)))
    assert not np.array_equal(crops.crop(IMAGE, view(interpolation="bilinear"), train=False), by_pillow((24, 20)))
    Image.fromarray(IMAGE).save(tmp_path / "x.png")
    np.testing.assert_array_equal(crops.crop(Picture(tmp_path / "x.png", 3), view(), train=False), by_pillow((24, 20)))


def test_the_center_crop_is_that_of_torchvision():
    import_models()
    from torchvision import transforms

    steps = [transforms.Resize(30, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop((24, 20))]
    expected = np.asarray(transforms.Compose(steps)(Image.fromarray(IMAGE)))
    np.testing.assert_array_equal(crops.crop(IMAGE, view(test_crop="center"), train=False), expected)


@pytest.mark.parametrize("train_crop", ["random_resized", "random", "random_central"])
def test_random_crops_are_parts_that_pillow_resizes(train_crop, monkeypatch):
    boxes = []
    resample = crops.resample

    def recorded(picture, size, box, interpolation):
        boxes.append(box)
        return resample(picture, size, box, interpolation)

    monkeypatch.setattr(crops, "resample", recorded)
    for position in range(5):
        made = crops.crop(IMAGE, view(train_crop=train_crop), train=True, seed=1, position=position)
        np.testing.assert_array_equal(made, by_pillow((24, 20), boxes[-1]))
        crops.crop(IMAGE, view(train_crop=train_crop, interpolation="bilinear"), train=True, seed=1, position=position)
        assert boxes[-1] == boxes[-2]  # the same part


@pytest.mark.parametrize("protocol", ["10-crop", "144-crop", "dense"])
def test_protocols_of_many_views_resize_so_too(protocol):
    square = dict(image_size=(24, 24))
    bicubic, bilinear = (
        views.views(IMAGE, view(**square, interpolation=name), protocol, 40) for name in ("bicubic", "bilinear")
    )
    whole = by_pillow((40, 40 * 90 // 70))
    expected = crops.middle(whole, (40, 40))[:24, :24] if protocol != "144-crop" else whole[:24, :24]
    np.testing.assert_array_equal(bicubic[0][:24, :24], expected)
    assert not np.array_equal(bicubic, bilinear)


def test_a_network_predicts_with_the_interpolation_of_its_file(tmp_path):
    source = open_source("bundled:resnet20-cifar10")
    given = dict(source.input) | {"interpolation": "bicubic"}
    save(tmp_path / "x.safetensors", source.leaves, model=source.model, given=given)
    loaded = cnn_jax.load(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(loaded.prepare([IMAGE])[0], by_pillow((32, 32)))
    # The bundled file was written before there was a choice.
    assert source.input["interpolation"] == "bilinear"


def test_the_folder_of_an_older_run_is_bilinear(tmp_path):
    given = {name: open_source("bundled:lenet5-digits").input[name] for name in run_folder.INPUT}
    older = {name: value for name, value in given.items() if name != "interpolation"}
    (tmp_path / "input.json").write_text(json.dumps(older))
    assert run_folder.read_input(tmp_path) == given | {"interpolation": "bilinear"}
    (tmp_path / "input.json").write_text(json.dumps(older | {"interpolation": "nearest"}))
    with pytest.raises(UserError, match="is damaged"):
        run_folder.read_input(tmp_path)
