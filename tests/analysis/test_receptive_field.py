import jax
import jax.numpy as jnp
import pytest

from cnn_jax.analysis import receptive_field


def window(x, padding="VALID", **options):
    """Returns the largest value of 3x2 windows."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 1, 1, 1), padding, **options)


def convolution(x, padding="VALID", **options):
    """Convolves with a 3x2 kernel."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, jnp.ones((3, 2, 2, 2)), (1, 1), padding, dimension_numbers=layout, **options)


@pytest.mark.parametrize(
    ("function", "sizes", "jump"),
    [
        (lambda x: x[:, ::2, 1::3], (1, 1), (2, 3)),
        (lambda x: x[:, 1:] + x[:, :-1], (2, 1), (1, 1)),
        (lambda x: x + x.mean((1, 2), keepdims=True), (12, 12), (None, None)),
        (lambda x: x.reshape(1, -1) @ jnp.ones((288, 3)), (12, 12), (None, None)),
        (lambda x: x @ jnp.ones((2, 3)), (1, 1), (1, 1)),
        (lambda x: x.transpose(0, 2, 1, 3)[:, ::2], (1, 1), (1, 2)),
        (lambda x: jnp.cumsum(x, axis=1), (12, 12), (None, None)),  # unknown: all that it gets
        (lambda x: jax.checkpoint(jax.nn.relu)(jax.jit(lambda x: x[:, ::4])(x)), (1, 1), (4, 1)),
        (lambda x: x.reshape(1, 12, 6, 2, 2).max(3), (1, 12), (1, None)),  # a split axis
        (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-2] + x[:, 1:], (3, 1), (1, 1)),  # above and below
        (lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), (12, 1), (None, 1)),  # stretched
        (lambda x: window(x, window_dilation=(1, 2, 1, 1)), (5, 2), (1, 1)),
        (lambda x: window(x, base_dilation=(1, 2, 1, 1)), (12, 2), (None, 1)),
        (lambda x: window(x, padding=((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-2] + x[:, 3:, :-1], (5, 2), (1, 1)),
        (lambda x: convolution(x, rhs_dilation=(3, 1)), (7, 2), (1, 1)),
        (lambda x: convolution(x, padding=((0, 0), (0, 0)), lhs_dilation=(2, 1)), (12, 2), (None, 1)),  # transposed
        (lambda x: convolution(x, padding=((1, 0), (0, 0)))[:, :-2] + x[:, 3:, :-1], (5, 2), (1, 1)),
        (lambda x: jnp.broadcast_to(x[:, :1], x.shape), (1, 1), (None, 1)),
        (lambda x: jnp.concatenate([x, x], axis=1), (12, 1), (None, 1)),
        (lambda x: jnp.einsum("bhwc,hk->bwck", x, jnp.ones((12, 3))), (12, 1), (None, 1)),
        (lambda x: jnp.einsum("hk,bhwc->kbwc", jnp.ones((12, 3)), x), (12, 1), (None, 1)),
        (lambda x: jnp.einsum("hwcf,bhwc->bhwf", jnp.ones((12, 12, 2, 3)), x)[:, ::2], (1, 1), (2, 1)),  # its own
        (lambda x: x[:, :1].reshape(1, 12, 2), (1, 1), (None, 1)),
        (lambda x: x @ x.mean((1, 2)).reshape(2, 1), (12, 12), (None, None)),  # a kernel that sees the image
    ],
)
def test_operations_that_move_positions(function, sizes, jump):
    traced = jax.make_jaxpr(function)(jnp.ones((1, 12, 12, 2)))
    (field,) = receptive_field.receptive_fields(traced, [receptive_field.image(2)])
    assert (field.size, field.jump) == (sizes, jump)


def test_what_does_not_depend_on_the_image_sees_nothing():
    traced = jax.make_jaxpr(lambda x: jnp.ones(3) * 2)(jnp.ones((1, 4, 4, 1)))
    assert receptive_field.receptive_fields(traced, [receptive_field.image(2)]) == [None]
