"""The classic convolutional networks in JAX."""

from typing import Any

from cnn_jax.models import create

__all__ = ["create", "load"]
__version__ = "0.1.0"


def load(source: Any) -> Any:
    """Returns the trained network that `source` names; see `cnn_jax.pretrained.predictor.load`."""
    from cnn_jax.pretrained import predictor

    return predictor.load(source)
