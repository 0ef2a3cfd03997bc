"""The multi-layer perceptron, the baseline that shows how many parameters a convolution saves.

Every unit sees every pixel, so the first layer has (pixels + 1) x units parameters:

image       units    first layer, weights    with 26 classes and biases
16x16x1     100                    25,600    256*100 + 100 + 100*26 + 26 = 28,326
28x28x1     100                    78,400
256x256x1   100                 6,553,600
256x256x3   100                19,660,800
"""

from collections.abc import Iterator
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.core.rules import fixed, option
from cnn_jax.nn.family import Family, LayerMaker


class MLP(Family):
    """Images [B, *spatial, C] -> class scores [B, num_classes]."""

    hidden_sizes: tuple[int, ...] = option(
        (100,), "Units of each hidden layer; (): one linear layer, multinomial logistic regression."
    )
    num_classes: int = 10
    input_shape: tuple[int, ...] = (28, 28, 1)
    pool: str = fixed("max")
    norm: str = fixed("none")
    norm_groups: int = fixed(32)
    norm_decay: float = fixed(0.9)
    head: str = fixed("fc")
    fc_sizes: tuple[int, ...] = fixed(())

    def check(self) -> None:
        check(
            len(self.hidden_sizes) > 0 or self.dropout == 0,
            f"dropout is {self.dropout}, but acts after hidden layers, and hidden_sizes is (): use dropout=0",
        )

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        yield from ()

    def head_options(self) -> dict[str, Any]:
        return dict(fc_sizes=self.hidden_sizes)
