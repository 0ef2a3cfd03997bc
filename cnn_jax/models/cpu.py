"""What makes convolutions fast on a CPU, in one place.

XLA's CPU backend runs a 1x1 convolution several times slower than the matrix product that it is. The functions
here compute the same sums in another form and change results by rounding only; GPUs and TPUs keep XLA's own
convolutions. Parameters and MACs are those of the layer, whichever form runs.
"""

from typing import Any

import jax
from jax import lax


def use_fast_path() -> bool:
    """Returns whether computation goes to a CPU (decided when a function is traced)."""
    return jax.default_backend() == "cpu"


def conv_general_dilated(
    lhs: jax.Array,  # [B, *spatial, C_in]
    rhs: jax.Array,  # [*kernel, C_in // groups, C_out]
    window_strides: Any,
    padding: Any,
    *,
    feature_group_count: int = 1,
    **kwargs: Any,
) -> jax.Array:
    """Drop-in for `lax.conv_general_dilated` in channels-last layout: 1x1 kernels become matrix products on a CPU."""
    pointwise = all(size == 1 for size in rhs.shape[:-2]) and feature_group_count == 1
    unpadded = not isinstance(padding, str) and all(tuple(pair) == (0, 0) for pair in padding)
    if pointwise and unpadded and use_fast_path():
        strided = lhs[(slice(None), *(slice(None, None, stride) for stride in window_strides))]
        return lax.dot_general(
            strided,
            rhs.reshape(rhs.shape[-2:]),
            (((strided.ndim - 1,), (0,)), ((), ())),
            precision=kwargs.get("precision"),
            preferred_element_type=kwargs.get("preferred_element_type"),
        )
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, feature_group_count=feature_group_count, **kwargs
    )
