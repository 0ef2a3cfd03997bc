"""The multi-layer perceptron: what a convolution saves is counted against it.

Every unit sees every pixel, so the first layer has (pixels + 1) x units parameters:

image       units    first layer, weights    with 26 classes and biases
16x16x1     100                    25,600    256*100 + 100 + 100*26 + 26 = 28,326
28x28x1     100                    78,400
256x256x1   100                 6,553,600
256x256x3   100                19,660,800
"""

from collections.abc import Sequence
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.network import Network


class MLP(Network):
    """Fully connected network: images [B, *spatial, C] -> class scores [B, num_classes].

    hidden_sizes: units of each hidden layer; () leaves one linear layer, multinomial logistic regression.
    activation: of the hidden layers, see `init.ACTIVATIONS`. dropout: its rate after each hidden layer.
    width: multiplies the hidden units. init: of the kernels, see `init.INITS`.

    Raises:
      UserError: a field has an impossible value.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (28, 28, 1),
        hidden_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check(
            len(hidden_sizes) > 0 or dropout == 0,
            f"dropout is {dropout}, but acts behind hidden layers, and hidden_sizes is (): use dropout=0",
        )
        self.append_head(
            input_shape,
            num_classes,
            head="fc",
            fc_sizes=hidden_sizes,
            width=width,
            dropout=dropout,
            activation=activation,
            init=init,
            classifier_init=init,
            dtype=dtype,
            rngs=rngs,
        )
