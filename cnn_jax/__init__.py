"""The classic convolutional networks in JAX."""

from cnn_jax.models import create

__all__ = ["create"]
__version__ = "0.1.0"
