"""The costs of the lectures' modules and the sizes of their worked examples, computed from our layers."""

import functools
from typing import Any

import jax
import pytest
from flax import nnx

from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.models.googlenet import MODULES, Inception
from cnn_jax.models.resnet import Block, basic, bottleneck
from cnn_jax.models.squeezenet import Fire
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv, ConvBlock, make_norm
from experiments.lectures.networks import macs, weights


class Chain(nnx.Module):
    """Layers one after the other."""

    def __init__(self, layers):
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def options() -> dict[str, Any]:
    return dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))


def conv(*arguments, **fields):
    return Conv(*arguments, **options() | fields)


def block(*arguments):
    return ConvBlock(*arguments, **options())


def inception(reduction):
    return Inception(192, MODULES["inception_3a"] or (), block, reduction=reduction, small=False, kernel_plan="single")


def residual(plan, channels):
    norm = functools.partial(make_norm, "batch", rngs=InitKeys(jax.random.key(0)))
    fields: dict[str, Any] = dict(shortcut="B", residual=True, zero_gamma=False, activation="relu")
    return Block(channels, plan, conv=functools.partial(conv, bias=False), norm=norm, **fields)


PLAN: dict[str, Any] = dict(stride=1, variant="v1", groups=1, width_per_group=64, reduction=True)


# (module, image, weights and biases and MACs of its convolutions)
@pytest.mark.parametrize(
    ("create", "image", "expected"),
    [
        pytest.param(
            lambda: Fire(192, (16, 16, 16), block, reduction=True, bypass="none"),
            *((28, 28, 192), (5_632, 48, 4_415_488)),
            id="fire",
        ),
        pytest.param(lambda: inception(True), (28, 28, 192), (163_328, 368, 128_049_152), id="inception-3a"),
        pytest.param(lambda: inception(False), (28, 28, 192), (387_072, 224, 303_464_448), id="inception-3a-naive"),
        pytest.param(
            lambda: residual(bottleneck(64, **PLAN), 256),
            *((56, 56, 256), (69_632, 0, 69_632 * 56**2)),
            id="residual-bottleneck-256",
        ),
        pytest.param(
            lambda: residual(basic(256, **PLAN), 256), (56, 56, 256), (1_179_648, 0, 1_179_648 * 56**2), id="basic-256"
        ),
        pytest.param(lambda: residual(basic(64, **PLAN), 64), (56, 56, 64), (73_728, 0, 73_728 * 56**2), id="basic-64"),
    ],
)
def test_a_module_costs_what_the_lecture_says(create, image, expected):
    found = [row for row in layer_table(create, image) if row.kind == "conv"]
    assert (weights(found), sum(row.biases for row in found), macs(found)) == expected
    assert {row.output_shape[:-1] for row in found} == {image[:-1]}


def test_a_naive_module_widens_its_input():
    branches = layer_table(lambda: inception(False), (28, 28, 192))
    assert sum(row.output_shape[-1] for row in branches) == 416


# (image, [channels, kernel, stride, padding] of each convolution, outputs, parameters, MACs)
@pytest.mark.parametrize(
    ("image", "layers", "outputs", "parameters", "operations"),
    [
        ((32, 32, 3), [(6, 5, 1, 0)], ["28x28x6"], 456, 352_800),
        ((32, 32, 3), [(10, 5, 1, 2)], ["32x32x10"], 760, 768_000),
        ((28, 28, 6), [(10, 5, 1, 0)], ["24x24x10"], 1_510, 864_000),
        ((6, 6, 3), [(2, 3, 1, 0)], ["4x4x2"], 56, 864),
        ((6, 6, 1), [(1, 3, 1, 0)], ["4x4x1"], 10, 144),  # 36*16 + 16 as a linear layer; of those 144 are not 0
        ((7, 7, 1), [(1, 3, 1, 0)], ["5x5x1"], 10, 225),
        ((7, 7, 1), [(1, 3, 2, 0)], ["3x3x1"], 10, 81),
        ((7, 7, 1), [(1, 3, 3, 0)], ["2x2x1"], 10, 36),  # "doesn't fit": rounded down
        ((7, 7, 1), [(1, 3, 1, 1)], ["7x7x1"], 10, 441),
        ((32, 32, 1), [(1, 5, 1, 0)] * 7, [f"{n}x{n}x1" for n in (28, 24, 20, 16, 12, 8, 4)], 182, 25 * 2_240),
        ((32, 32, 1), [(1, 1 + 2 * pad, 1, pad) for pad in (1, 2, 3)], ["32x32x1"] * 3, 10 + 26 + 50, 1024 * 83),
    ],
)
def test_a_convolution_has_the_size_of_the_worked_example(image, layers, outputs, parameters, operations):
    channels = [image[-1], *(layer[0] for layer in layers)]
    found = layer_table(lambda: Chain(list(map(conv, channels, *zip(*layers, strict=True)))), image)
    assert ["x".join(map(str, row.output_shape)) for row in found] == outputs
    assert (sum(row.parameters for row in found), macs(found)) == (parameters, operations)


def test_dilation_widens_what_a_kernel_sees_at_no_cost():
    def stack(*rates):
        return layer_table(lambda: Chain([conv(1, 1, 3, 1, rate, dilation=rate) for rate in rates]), (64, 64, 1))

    dilated, plain = stack(1, 2, 4, 8), stack(1, 1, 1, 1)
    assert [row.receptive_field for row in dilated] == [(3, 3), (7, 7), (15, 15), (31, 31)]
    assert [row.receptive_field for row in plain] == [(3, 3), (5, 5), (7, 7), (9, 9)]
    for found in (dilated, plain):
        assert [(row.output_shape, row.parameters, row.macs) for row in found] == [((64, 64, 1), 10, 9 * 64**2)] * 4
    assert stack(2)[0].receptive_field == (5, 5)
