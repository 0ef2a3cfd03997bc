"""Many equal blocks in a row, compiled as one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.nn import remat
from cnn_jax.nn.hooks import active
from cnn_jax.nn.init import InitKeys


class Repeated(nnx.Module):
    """`count` modules in a row that are built alike, x -> x of the same shape; names of their leaves have no numbers.

    Every leaf of `block` has a leading axis with an entry for each of them. So a compiler sees one block, and an
    optimizer one array for all: ResNet-1202 block by block is 7,000 arrays, which XLA compiles for many minutes.

    Hooks (`hooks.capture`) see them one after another, as attributes "0", "1", ...

    With a key `rngs` each is called as block(x, rngs=KEY, number=I): a key of its own, and which one it is.
    """

    def __init__(self, make: Callable[[InitKeys], nnx.Module], count: int, *, rngs: InitKeys):
        graphdef, _ = nnx.split(nnx.eval_shape(lambda: make(InitKeys(jax.random.key(0)))))
        keys = jax.random.split(rngs.params(), count)
        self.block = nnx.merge(graphdef, jax.vmap(lambda key: nnx.as_pure(nnx.state(make(InitKeys(key)))))(keys))
        self.count = count

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        def options(number: Any) -> dict[str, Any]:
            return {} if rngs is None else dict(rngs=jax.random.fold_in(rngs, number), number=number)

        graphdef, state = nnx.split(self.block)
        state = nnx.as_pure(state)
        if active():
            for i in range(self.count):
                block = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
                setattr(self, str(i), block)
                x = block(x, **options(i))
            return x

        def step(x: jax.Array, one: tuple[nnx.State, Any]) -> tuple[jax.Array, nnx.State]:
            state, number = one
            block = nnx.merge(graphdef, state)
            return remat.call(block, x, **options(number)), nnx.as_pure(nnx.state(block, nnx.BatchStat))

        numbers = None if rngs is None else jnp.arange(self.count)
        x, statistics = jax.lax.scan(step, x, (state, numbers))
        nnx.update(self.block, statistics)
        return x
