import jax
import jax.numpy as jnp
import pytest

from cnn_jax import receptive_field


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
        (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1] + x, (2, 1), (1, 1)),
    ],
)
def test_operations_that_move_positions(function, sizes, jump):
    traced = jax.make_jaxpr(function)(jnp.ones((1, 12, 12, 2)))
    (field,) = receptive_field.receptive_fields(traced, [receptive_field.image(2)])
    assert (field.size, field.jump) == (sizes, jump)


def test_what_does_not_depend_on_the_image_sees_nothing():
    traced = jax.make_jaxpr(lambda x: jnp.ones(3) * 2)(jnp.ones((1, 4, 4, 1)))
    assert receptive_field.receptive_fields(traced, [receptive_field.image(2)]) == [None]
