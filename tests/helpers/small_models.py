"""Small networks with NumPy's random parameters, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax import models
from cnn_jax.core import trees
from cnn_jax.models import resnet
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv, make_norm

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)
TRAIN = dict(deterministic=False, use_running_average=False, raise_if_not_found=False)
SMALL = dict(depth=8, width=0.25, input_shape=(8, 8, 3))  # 4, 8, 16 channels


def abstract(name: str, **fields):
    """Returns the network with shapes instead of arrays: nothing is computed."""
    return nnx.eval_shape(lambda: models.create(name, **fields))


def make_block(in_channels, plan, *, shortcut="B", zero_gamma=False, **parts):
    """Returns a residual block on its own."""
    keys = InitKeys(jax.random.key(0))
    conv = functools.partial(Conv, bias=False, init="he_fan_out", rngs=keys)
    norm = functools.partial(make_norm, "batch", rngs=keys)
    options = dict(conv=conv, norm=norm, activation="relu", residual=True)
    return resnet.Block(in_channels, plan, **options, shortcut=shortcut, zero_gamma=zero_gamma, **parts)


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def filled(name: str, seed: int = 0, **fields):
    """Returns a network with numpy's random numbers: compiling an initializer for each shape would take seconds."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        kind = trees.path_name(path).removesuffix("/value").split("/")[-1]
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        if kind in ("bias", "mean"):
            return jnp.asarray(rng.uniform(-0.5, 0.5, leaf.shape), jnp.float32)
        assert kind == "kernel"
        return jnp.asarray(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), jnp.float32)

    graphdef, state = nnx.split(abstract(name, **fields))
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def named(state) -> list:
    """Returns (name, array) of all parameters or statistics, with the names that configurations use."""
    return trees.named_leaves(nnx.as_pure(state))


def forward(model, x, **view):
    """Returns (output, BatchNorm statistics afterwards) under jit."""
    graphdef, state = nnx.split(nnx.view(model, **view))

    @jax.jit
    def run(state, x):
        merged = nnx.merge(graphdef, state)
        y = merged(x)
        return y, nnx.as_pure(nnx.state(merged, nnx.BatchStat))

    return run(state, x)
