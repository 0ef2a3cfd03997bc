"""Many equal blocks in a row, compiled as one."""

from collections.abc import Callable

import jax
from flax import nnx

from cnn_jax.nn import remat
from cnn_jax.nn.hooks import active
from cnn_jax.nn.init import InitKeys


class Repeated(nnx.Module):
    """`count` modules in a row that are built alike, x -> x of the same shape; names of their leaves have no numbers.

    Every leaf of `block` has a leading axis with an entry for each of them. So a compiler sees one block, and an
    optimizer one array for all: ResNet-1202 block by block is 7,000 arrays, which XLA compiles for many minutes.

    Hooks (`hooks.capture`) see them one after another, as attributes "0", "1", ...
    """

    def __init__(self, make: Callable[[InitKeys], nnx.Module], count: int, *, rngs: InitKeys):
        graphdef, _ = nnx.split(nnx.eval_shape(lambda: make(InitKeys(jax.random.key(0)))))
        keys = jax.random.split(rngs.params(), count)
        self.block = nnx.merge(graphdef, jax.vmap(lambda key: nnx.as_pure(nnx.state(make(InitKeys(key)))))(keys))
        self.count = count

    def __call__(self, x: jax.Array) -> jax.Array:
        graphdef, state = nnx.split(self.block)
        state = nnx.as_pure(state)
        if active():
            for i in range(self.count):
                block = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
                setattr(self, str(i), block)
                x = block(x)
            return x

        def step(x: jax.Array, state: nnx.State) -> tuple[jax.Array, nnx.State]:
            block = nnx.merge(graphdef, state)
            return remat.call(block, x), nnx.as_pure(nnx.state(block, nnx.BatchStat))

        x, statistics = jax.lax.scan(step, x, state)
        nnx.update(self.block, statistics)
        return x
