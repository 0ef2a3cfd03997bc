"""Networks as ONNX, computed by onnxruntime for several batches and compared with ours."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import exporting, onnx_writer
from cnn_jax.pretrained import source as pretrained

NETWORKS = {
    "lenet5": dict(input_shape=(28, 28, 1)),
    "lenet5_1998": dict(input_shape=(32, 32, 1)),
    "alexnet": dict(input_shape=(67, 67, 3), width=0.25),  # LRN, groups, overlapping pooling
    "nin": dict(input_shape=(67, 67, 3), width=0.25),
    "googlenet": dict(input_shape=(64, 64, 3), width=0.25),
    "resnet20": dict(input_shape=(32, 32, 3)),
    "resnet18": dict(input_shape=(64, 64, 3), width=0.125),
    "squeezenet1_1": dict(input_shape=(67, 67, 3), width=0.25),
    "vgg11": dict(input_shape=(32, 32, 3), width=0.125, fc_sizes=(16, 16)),
    "conv1d": dict(input_shape=(64, 1)),
    "c3d": dict(input_shape=(16, 32, 32, 3), width=0.0625),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_computes_the_same(name):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = models.create(name, num_classes=7, **NETWORKS[name])
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    shape = NETWORKS[name]["input_shape"]
    written = onnx_writer.to_onnx(model, jax.ShapeDtypeStruct(shape, jnp.float32))
    session = runtime.InferenceSession(written.SerializeToString())
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        ours = np.asarray(model(jnp.asarray(x)))
        assert np.ptp(ours) > 0 and found.shape == ours.shape
        np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


@pytest.mark.nightly
def test_the_file_has_normalization_and_classes(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    source = pretrained.open_source("bundled:lenet5-digits")
    use = exporting.write_onnx(source, tmp_path / "x.onnx")
    assert "uint8 [b, 28, 28, 1], any b" in use
    session = runtime.InferenceSession(tmp_path / "x.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, exporting.probabilities(source)(images), atol=1e-5)
    assert (
        session.get_modelmeta().custom_metadata_map["classes"] == '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    )


@pytest.mark.nightly
def test_an_operation_that_is_not_written_is_named():
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match="computes with 'sort', which is not written as ONNX"):
        onnx_writer.to_onnx(lambda x: jnp.sort(x, axis=1), jax.ShapeDtypeStruct((4,), jnp.float32))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"a .onnx needs the library onnx: pip install 'cnn-jax\[onnx\]'"):
        onnx_writer.to_onnx(jnp.tanh, jax.ShapeDtypeStruct((4,), jnp.float32))
