"""Networks written for use elsewhere, read again and compared."""

import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

import torchvision_models
from cnn_jax import models
from cnn_jax.core import trees
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.pretrained import exporting as export
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.predictor import Predictor, load
from tiers import quick


def network(name, image_size=(32, 32), channels=3, num_classes=3, **fields):
    """Returns a trained network: random weights, as a source."""
    shape = (*image_size, channels)
    model = nnx.eval_shape(lambda: models.create(name, num_classes=num_classes, input_shape=shape, **fields))
    leaves = trees.named_leaves(nnx.to_pure_dict(nnx.state(torchvision_models.random_weights(model))))
    given = {
        **{"image_size": list(image_size), "channels": channels, "test_crop": "resize", "test_resize": 0},
        "interpolation": "bilinear",
        **{"mean": [0.4] * channels, "std": [0.3] * channels, "classes": [f"class {i}" for i in range(num_classes)]},
    }
    arrays = {path: np.asarray(leaf) for path, leaf in leaves}
    arrays["head/classifier/kernel"] = 0.1 * arrays["head/classifier/kernel"]  # no class has all of the probability
    return pretrained.Pretrained("runs/x@7", f"{name} of runs/x", {"name": name, **fields}, given, arrays)


def images(source, count):
    sizes = (count, *source.input["image_size"], source.input["channels"])
    return np.random.default_rng(0).integers(0, 256, sizes, np.uint8)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ["lenet5", "squeezenet1_1"])
def test_our_names_come_back_to_the_bit(tmp_path, name):
    source = network(name, (48, 48), width=0.25, num_classes=5)
    use = export.write_weights(source, tmp_path / "x.safetensors")
    again = pretrained.open_source(str(tmp_path / "x.safetensors"))
    assert f"cnn_jax.load({str(tmp_path / 'x.safetensors')!r})" in use
    assert (again.model, again.input, again.num_classes) == (source.model, source.input, 5)
    assert set(again.leaves) == set(source.leaves)
    for path, leaf in source.leaves.items():
        np.testing.assert_array_equal(again.leaves[path], leaf)
    x = images(source, 2)
    np.testing.assert_array_equal(Predictor(again)(x), Predictor(source)(x))


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"model": {}},
            {"model": 3},
            {"input": {}},
            {"channels": "3"},
            {"image_size": 28},
            {"image_size": [28, None]},
        ),
        *(
            {"mean": [0.1, 0.2]},
            {"std": "x"},
            {"mean": [[0.1] * 3] * 28},
            {"classes": [1, 2, 3]},
            {"test_resize": None},
        ),
    ],
)
def test_a_header_that_describes_no_network(tmp_path, changes):
    source, path = network("lenet5", (28, 28), 1), tmp_path / "x.safetensors"
    about = {"model": source.model, "input": source.input | changes} | {
        k: v for k, v in changes.items() if k == "model"
    }
    about |= {"input": {}} if "input" in changes else {}
    save_file(source.leaves, path, metadata={"cnn_jax": json.dumps(about)})
    with pytest.raises(UserError, match="is damaged: its header describes no network"):
        pretrained.open_source(str(path))
    for text in ("", "[]", "{", "7"):
        save_file(source.leaves, path, metadata={"cnn_jax": text})
        with pytest.raises(UserError, match="is damaged"):
            pretrained.open_source(str(path))


def test_a_header_of_another_network(tmp_path):
    source, path = network("lenet5", (28, 28), 1), tmp_path / "x.safetensors"
    pretrained.save(path, source.leaves, model={"name": "resnet18"}, given=source.input)
    with pytest.raises(UserError, match=r"does not have the arrays of resnet18:\n  conv1/kernel: absent there"):
        load(str(path))
    pretrained.save(path, source.leaves, model=source.model, given=source.input, names="torchvision")
    with pytest.raises(UserError, match="the weights of no network that is known here"):
        load(str(path))


@pytest.mark.parametrize(
    "name, channels",
    [
        pytest.param("resnet18", 3, marks=pytest.mark.slow),
        pytest.param("resnet18", 1, marks=pytest.mark.slow),
        ("squeezenet1_1", 3),
    ],
)
def test_torchvision_takes_its_names_strictly(tmp_path, name, channels):
    source = network(name, (64, 64), channels)
    use = export.write_weights(source, tmp_path / "x.safetensors", names="torchvision")
    assert f"torchvision.models.{name}(num_classes=3)" in use
    assert ("replaced by one of 1 channels" in use) == (channels == 1)
    again = pretrained.open_source(str(tmp_path / "x.safetensors"))  # its header has the rest
    assert (again.model, again.input) == (source.model, source.input)
    for path, leaf in source.leaves.items():
        np.testing.assert_array_equal(again.leaves[path], leaf)
    theirs = torchvision_models.import_models()
    import torch
    from safetensors.torch import load_file

    built = getattr(theirs, name)(num_classes=3).eval()
    if channels == 1:
        built.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    built.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
    x = images(source, 2)
    with torch.no_grad():
        wanted = built((torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3).numpy()
    ours = np.asarray(Predictor(source)(x))
    assert np.max(np.abs(ours - wanted)) < 1e-4 * np.max(np.abs(wanted))


@pytest.mark.parametrize(
    "name, size, fields, told",
    [
        ("lenet5", (28, 28), {}, "torchvision has no lenet5: it has alexnet, googlenet, resnet101"),
        ("resnet18", (32, 32), {"activation": "elu"}, "resnet18: activation 'elu', there 'relu'"),
        ("resnet18", (32, 32), {"width": 0.25}, "width 0.25, there 1.0"),
        ("resnet50", (32, 32), {"variant": "v1", "width": 0.125}, "variant 'v1', there 'v1.5'"),
        ("vgg11", (32, 32), {"width": 0.125}, "image_size (32, 32), there (224, 224)"),
    ],
)
def test_networks_that_torchvision_lacks_are_refused(tmp_path, name, size, fields, told):
    with pytest.raises(UserError) as error:
        export.write_weights(network(name, size, **fields), tmp_path / "x.safetensors", names="torchvision")
    assert told in str(error.value)
    assert not list(tmp_path.iterdir())


def test_calls_of_torchvision():
    def call(name, fields, size=(224, 224)):
        return export.torchvision_call({"name": name, **fields}, {"image_size": size, "channels": 3}, 10)

    for theirs, (name, fields) in pretrained.torchvision_weights.NETWORKS.items():
        fields = {field: value for field, value in fields.items() if field != "input_shape"}
        assert call(name, fields).startswith(f"torchvision.models.{theirs}(num_classes=10")
    assert "aux_logits=False" in call("googlenet", dict(variant="torchvision", norm="batch"))
    assert "resnet18(" in call("resnet18", dict(zero_gamma=True, norm_decay=0.5), (32, 32))  # of training only


# ---------------------------------------------------------------- functions

FUNCTIONS = {
    "lenet5": dict(image_size=(28, 28), channels=1),
    "resnet18": dict(width=0.125),
    "vgg11": dict(width=0.125, norm="batch", fc_sizes=(16, 16)),
    "squeezenet1_1": dict(width=0.25, image_size=(48, 48)),
    "alexnet": dict(width=0.125, image_size=(67, 67)),
    "c3d": dict(width=0.0625, image_size=(16, 32, 32), norm="batch"),
}


@pytest.mark.parametrize("name", quick(FUNCTIONS, ("vgg11", "lenet5")))
def test_functions_give_the_same_probabilities_for_any_batch(tmp_path, name):
    source = network(name, **FUNCTIONS[name])
    use = export.write_function(source, tmp_path / "x.stablehlo")
    function = jax.export.deserialize(bytearray((tmp_path / "x.stablehlo").read_bytes()))
    assert function.platforms == ("cpu", "cuda", "tpu") and "uint8" in use
    x = images(source, 3)
    ours = np.asarray(Predictor(source).probabilities(x))
    assert np.ptp(ours, axis=0).max() > 1e-3  # the image matters
    for count in (1, 3) if name == "lenet5" else (3,):
        theirs = np.asarray(function.call(x[:count]))
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours[:count], rtol=1e-3, atol=1e-6)
    # Every convolution is XLA's own, not a form for CPUs; there may be one for each platform.
    kernels = [path for path, leaf in source.leaves.items() if leaf.ndim > 2]
    count = function.mlir_module().count("stablehlo.convolution")
    assert count >= len(kernels) and count % len(kernels) == 0


def test_a_function_of_sequences_takes_floats(tmp_path):
    source = network("conv1d", image_size=(64,), channels=1)
    export.write_function(source, tmp_path / "x.stablehlo")
    function = jax.export.deserialize(bytearray((tmp_path / "x.stablehlo").read_bytes()))
    x = np.random.default_rng(0).standard_normal((2, 64, 1), np.float32)
    np.testing.assert_allclose(function.call(x), Predictor(source).probabilities(x), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("form", ["safetensors", "stablehlo"])
def test_a_failed_write_leaves_the_earlier_file(tmp_path, form):
    resource = pytest.importorskip("resource")
    source, path = network("lenet5", (28, 28), 1), tmp_path / f"x.{form}"
    path.write_bytes(b"before")
    write = export.write_weights if form == "safetensors" else export.write_function
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # bytes in a file of this process
    try:
        with pytest.raises(StorageError, match="cannot be written: File too large"):
            write(source, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"before"
    write(source, path)
    (tmp_path / "other").touch()
    assert path.stat().st_size > 4096 and path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_file_is_written_once_and_replaced_on_request(call, refused, tmp_path):
    source, first, second = network("lenet5", (28, 28), 1), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    export.write_weights(source, first)
    done = call("export", f"--checkpoint={first}", f"--output={second}").out.replace("\n", " ")
    assert f"lenet5 of {first}" in done and "bytes; cnn_jax.load(" in done
    assert second.read_bytes() == first.read_bytes()
    error = refused("export", f"--checkpoint={first}", f"--output={second}")
    assert re.fullmatch(r"error: --output=\S+ is there already: name another, or add --overwrite\n", error)
    again = call("export", f"--checkpoint={first}", f"--output={tmp_path / 'c.stablehlo'}", "--overwrite")
    assert "takes uint8 [b, 28, 28, 1], any b" in again.out
    with safe_open(second, framework="numpy") as file:
        assert json.loads(file.metadata()["cnn_jax"])["input"]["classes"] == source.classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the trained network"),
        (("--checkpoint=runs/x",), "name the file to write"),
        (("--checkpoint=runs/x", "--output=x.pth"), "must end in .safetensors, .stablehlo or .onnx"),
        (("--checkpoint=nowhere", "--output=x.safetensors"), "no trained network 'nowhere'"),
        (("--config=lenet5",), "this command takes no --config"),
        (("more",), "unexpected argument 'more'"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message):
    assert message in refused("export", *arguments)


@pytest.mark.parametrize(
    "output, names, told",
    [
        ("x.pth", "ours", "must end in .safetensors, .stablehlo or .onnx"),
        ("none/x.safetensors", "ours", "there is no folder"),
        ("folder.stablehlo", "ours", "is a folder"),
        ("x.stablehlo", "torchvision", "is about the arrays in a .safetensors"),
    ],
)
def test_bad_outputs(tmp_path, output, names, told):
    (tmp_path / "folder.stablehlo").mkdir()
    with pytest.raises(UserError, match=re.escape(told)):
        export.check_output(tmp_path / output, names=names, overwrite=True)
