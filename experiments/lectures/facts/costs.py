"""What convolutions cost, 1x1 and flattened ones among them, and what an output sees (lectures 001 to 003)."""

from collections.abc import Sequence
from typing import Any

import jax

from cnn_jax.analysis.layer_table import LayerRow, layer_table
from cnn_jax.models.flattened import FlattenedConv
from cnn_jax.nn.init import InitKeys
from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import convolution, layer, macs, total, weights

POOL = (3, 2)
# (kernel, stride) of each layer up to the one whose field is given.
ALEXNET = ((11, 4), POOL, (5, 1), POOL, (3, 1), (3, 1), (3, 1), POOL)
VGG16 = (*((3, 1), (3, 1), (2, 2)) * 2, *((3, 1), (3, 1), (3, 1), (2, 2)) * 3)


def resnet(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the kernels and strides on the longest path of a ResNet with bottlenecks, v1."""
    found = [(7, 2), POOL]
    for stage, count in enumerate(blocks):
        for block in range(count):
            found += [(1, 2 if stage and not block else 1), (3, 1), (1, 1)]
    return found


def field(steps: Sequence[tuple[int, int]]) -> int:
    """Returns the receptive field after layers of (kernel, stride): each adds kernel - 1 jumps of those before it."""
    seen, jump = 1, 1
    for kernel, stride in steps:
        seen, jump = seen + (kernel - 1) * jump, jump * stride
    return seen


def seen(name: str, **fields: Any) -> int:
    """Returns the receptive field of the last convolution, from the network's jaxpr."""
    found = total(name, **fields).receptive_field
    assert found is not None
    return found[0]


def pool_sees(place: str, name: str, **fields: Any) -> int:
    found = layer(place, name, **fields).receptive_field
    assert found is not None
    return found[0]


def flattened() -> list[LayerRow]:
    """Returns the layers of a flattened 5x5 convolution from 192 to 32 channels."""
    options: dict[str, Any] = dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
    return layer_table(lambda: FlattenedConv(192, 32, 5, sets=1, dtype=None, **options), (28, 28, 192))


def facts() -> list[Fact]:
    def direct():
        return convolution(28, 192, 32, 5, 2)

    def parts():
        return [convolution(28, 192, 16, 1), convolution(28, 16, 32, 5, 2)]

    weights_direct, weights_parts = 25 * 192 * 32, 192 * 16 + 25 * 16 * 32
    found = [
        Fact("001", "5x5 on 28x28x192, 32 filters: MACs", "120M", 28 * 28 * weights_direct, lambda: direct().macs),
        Fact("001", "5x5 on 28x28x192, 32 filters: weights", "153600", weights_direct, lambda: weights([direct()])),
        Fact(
            *("001", "behind 16 filters of 1x1: MACs", "12.4M", 28 * 28 * weights_parts),
            lambda: macs(parts()),
        ),
        Fact(
            "001",
            "behind 16 filters of 1x1: weights",
            "15873",
            weights_parts,
            lambda: weights(parts()),
            "15,920 with biases",
        ),
        Fact(
            *("001", "behind 16 filters of 1x1: times fewer", "10x", weights_direct / weights_parts),
            lambda: weights([direct()]) / weights(parts()),
        ),
        Fact(
            "001",
            "1x1 from 192 to 32 on 28x28: MACs",
            None,
            28 * 28 * 192 * 32,
            lambda: convolution(28, 192, 32, 1).macs,
        ),
        Fact("001", "weights of a 1x1 filter on 6x6x32", None, 32, lambda: weights([convolution(6, 32, 1, 1)])),
        Fact(
            *("001", "flattened 5x5 on 192 channels: weights", None, 192 * 32 + 2 * 5 * 32),
            lambda: weights(flattened()),
            "Jin et al. 2014; the slide calls it a Fire layer",
        ),
        Fact(
            *("001", "flattened 5x5 on 192 channels: MACs", None, 28 * 28 * (192 * 32 + 2 * 5 * 32)),
            lambda: macs(flattened()),
        ),
        Fact(
            "002",
            "5x5x3, 10 filters, padding 2: parameters",
            "760",
            10 * 76,
            lambda: convolution(32, 3, 10, 5, 2).parameters,
        ),
        Fact(
            "002",
            "5x5x3, 10 filters, padding 2: output",
            [32, 32, 10],
            [32, 32, 10],
            lambda: list(convolution(32, 3, 10, 5, 2).output_shape),
        ),
    ]
    found += [
        Fact(
            "001", "receptive field of AlexNet's last pool", None, field(ALEXNET), lambda: pool_sees("pool3", "alexnet")
        ),
        Fact("001", "receptive field of VGG-16's last pool", None, field(VGG16), lambda: pool_sees("pool5", "vgg16")),
    ]
    for depth, blocks in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))):
        what, by_hand = f"receptive field of ResNet-{depth}", field(resnet(blocks))
        found.append(Fact("002", what, None, by_hand, lambda depth=depth: seen(f"resnet{depth}", variant="v1")))
    return found
