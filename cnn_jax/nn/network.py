"""A network: named layers in a row, then a head that computes class scores."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import UserError, check, check_choice
from cnn_jax.core.trees import path_name
from cnn_jax.nn import remat
from cnn_jax.nn.init import InitKeys, get_activation
from cnn_jax.nn.layers import Conv, Linear
from cnn_jax.nn.pooling import GlobalAveragePool
from cnn_jax.nn.windows import DoesNotFitError

HEADS = ("gap", "flatten", "fc", "conv")


class Head(nnx.Module):
    """From feature maps to class scores, [B, *spatial, C] -> [B, num_classes], returned as float32.

    kind:
      "gap": global average pooling, then one linear layer (Lin et al. 2013; He et al. 2016).
      "flatten": one linear layer on all features.
      "fc": hidden linear layers of `fc_sizes`, each with activation and dropout, then the classifier
        (Krizhevsky et al. 2012).
      "conv": a 1x1 convolution to one map for each class, activation, global average pooling (Lin et al. 2013, section
        3.2; Iandola et al. 2016): no linear layer.
    `dropout` is the rate; without hidden layers it acts before the classifier.

    Maps larger than `in_shape` are scored at every position, and the scores averaged: for "flatten" and "fc" the linear
    layers act as convolutions (Simonyan & Zisserman 2015, section 3.2). The other kinds do so anyway.

    With `num_classes` 0 there is no classifier, and the result is the features [B, F], float32: the mean over all
    positions if there are several.

    A call is `score(reduce(x))`: `reduce` has no parameters, so its result can be cached.
    """

    def __init__(
        self,
        in_shape: Sequence[int],  # [*spatial, C], without batch
        num_classes: int,
        *,
        kind: str,
        fc_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
        init: str,
        classifier_init: str,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("head", kind, HEADS)
        check(0 <= dropout < 1, f"dropout is {dropout}, but must be in [0, 1): the share of features set to zero")
        check(
            num_classes == 0 or num_classes >= 2,
            f"num_classes is {num_classes}, but a classifier needs at least 2 classes; 0 gives features instead",
        )
        self.kind = kind
        self.in_shape = tuple(in_shape)
        self.activation = get_activation(activation)
        features = in_shape[-1] if kind == "gap" else math.prod(in_shape)
        self.pool = GlobalAveragePool() if kind in ("gap", "conv") else None
        self.hidden = nnx.List([])
        check(all(size > 0 for size in fc_sizes), f"fc_sizes is {tuple(fc_sizes)}, but every size must be above 0")
        for size in fc_sizes if kind == "fc" else ():
            self.hidden.append(Linear(features, size, init=init, dtype=dtype, rngs=rngs))
            features = size
        self.dropout = nnx.Dropout(dropout)
        if not num_classes:
            self.classifier = None
        elif kind == "conv":
            ones = (1,) * (len(in_shape) - 1)
            self.classifier = Conv(in_shape[-1], num_classes, ones, init=classifier_init, dtype=dtype, rngs=rngs)
        else:
            self.classifier = Linear(features, num_classes, init=classifier_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        return self.score(self.reduce(x), rngs=rngs)

    def reduce(self, x: jax.Array) -> jax.Array:
        """Returns the input of the head's first layer with parameters, for maps [B, *spatial, C].

        "gap": their averages [B, C]. "flatten" and "fc": their values in a row, see `flat_windows`. "conv": the maps.
        """
        if self.kind == "conv":
            return x
        return self.pool(x) if self.pool is not None else flat_windows(x, self.in_shape)

    def score(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """Returns class scores [B, num_classes], or features without classes, float32, from `reduce`'s result."""
        if self.kind == "conv":
            assert self.pool is not None
            maps = self.dropout(x, rngs=rngs)
            maps = maps if self.classifier is None else self.activation(self.classifier(maps))
            return self.pool(maps.astype(jnp.float32))
        keys = iter(() if rngs is None else jax.random.split(rngs, len(self.hidden) + 1))
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)), rngs=next(keys, None))
        if not self.hidden:
            x = self.dropout(x, rngs=next(keys, None))
        scores = (x if self.classifier is None else self.classifier(x)).astype(jnp.float32)
        return scores.mean(tuple(range(1, scores.ndim - 1)))


def flat_windows(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns all windows of `shape` [*spatial, C] in x, flattened: [B, *positions, values], or [B, values] for one.

    Raises:
      UserError: x is smaller than a window.
    """
    *sizes, _ = shape
    if x.shape[1:] == tuple(shape):
        return x.reshape(x.shape[0], -1)
    check(
        x.ndim == len(shape) + 1 and all(have >= need for have, need in zip(x.shape[1:-1], sizes, strict=True)),
        f"a map of {x.shape[1:]} reaches a head that was built for {tuple(shape)}: give images of at least that size",
    )
    for axis, size in enumerate(sizes):  # [B, *positions, rest of the axes, windows' axes, C]
        starts = jnp.arange(x.shape[1 + axis] - size + 1)
        x = jnp.moveaxis(jnp.take(x, starts[:, None] + jnp.arange(size), axis=1 + axis), 2 + axis, -2)
    return x.reshape(*x.shape[: len(shape)], -1)


def feature_shape(model: Any, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of `model.features(x)` without batch, for x of `input_shape` [*spatial, C]; computes nothing.

    Raises:
      UserError: the input is too small; the message names the layer that it does not fit.
    """

    graphdef, state = nnx.split(model)

    def features(state: Any, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, state)
        try:
            return merged.features(x)
        except DoesNotFitError as error:
            name = next(path_name(path) for path, node in nnx.iter_graph(merged) if node is error.layer)
            size = "x".join(str(n) for n in input_shape[:-1])
            raise UserError(f"an image of {size} is too small for this network: in layer {name!r}, {error}") from None

    image = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    return jax.eval_shape(features, state, image).shape[1:]


class Network(nnx.Module):
    """Named layers in a row, then a head: images [B, *spatial, C] -> class scores [B, num_classes].

    input_shape: of an image without batch, [*spatial, C]. family: the `Family` that built the network, if one did.
    order: names of the layers before the head.
    """

    def __init__(self, input_shape: Sequence[int], family: Any = None):
        self.input_shape = tuple(input_shape)
        self.family = family
        self.order: tuple[str, ...] = ()

    def append(self, name: str, layer: Any) -> None:
        """Adds a layer, a module or a function, after the last one."""
        setattr(self, name, layer)
        self.order += (name,)

    def append_head(self, num_classes: int, **options: Any) -> None:
        """Adds the `Head` with its `options`."""
        self.head = Head(self.feature_shape(), num_classes, **options)

    def feature_shape(self) -> tuple[int, ...]:
        """Returns the shape [*spatial, C] of the maps that the layers so far give; see `feature_shape`."""
        evaluated = nnx.view(self, deterministic=True, use_running_average=True, raise_if_not_found=False)
        return feature_shape(evaluated, self.input_shape)

    def check_input(self, x: jax.Array) -> None:
        """Raises UserError unless x is a batch of images, channels last; their sizes may differ from `input_shape`."""
        got, (*_, channels) = list(x.shape), self.input_shape
        if len(got) == len(self.input_shape) + 1 and got[-1] == channels:
            return
        wanted = f"[batch, {', '.join(map(str, self.input_shape))}], channels last"
        if len(got) == len(self.input_shape):
            raise UserError(f"the input has the shape {got}, but must be {wanted}: add the batch axis, x[None]")
        if len(got) == 4 and got[1] == channels:
            raise UserError(
                f"the input has the shape {got}, which looks like NCHW, but must be NHWC, {wanted}: transpose it, "
                "x.transpose(0, 2, 3, 1)"
            )
        raise UserError(f"the input has the shape {got}, but must be {wanted}")

    def features(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """Returns the feature maps before the head, [B, *spatial', C'].

        Args:
          x: a batch of images, [B, *spatial, C]. rngs: a key for dropout and stochastic depth in the layers.

        Raises:
          UserError: x is not such a batch; see `check_input`.
        """
        self.check_input(x)
        for i, name in enumerate(self.order):
            layer = getattr(self, name)
            if isinstance(layer, nnx.Dropout) or getattr(layer, "skips", False):
                x = layer(x, rngs=fold_in(rngs, i))
            else:
                x = layer(x) if isinstance(layer, nnx.List) else remat.call(layer, x)  # stages do it for each block
        return x

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> Any:
        return self.head(self.features(x, rngs=rngs), rngs=fold_in(rngs, len(self.order)))

    def score(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """Returns the class scores from the result of `head.reduce`, as a call with the key `rngs` would."""
        return self.head.score(x, rngs=fold_in(rngs, len(self.order)))


def fold_in(key: jax.Array | None, number: int) -> jax.Array | None:
    """Returns the key with this number of a layer; None, in evaluation, stays None."""
    return None if key is None else jax.random.fold_in(key, number)
