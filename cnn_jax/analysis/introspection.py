"""What happens inside a network: the maps of its layers, class activation maps, deconvolution.

All functions are pure: `model` is a network in evaluation mode, x are its images, normalized, [B, H, W, C].

A name stands for the output of a layer. Names are those of the layer table: `conv1/conv` is the convolution alone. The
blocks of a network have names, too, for the output of the whole block: `conv1` is the convolution with its
normalization and activation, `conv3_x/0` a residual block.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.analysis import receptive_field
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check, near
from cnn_jax.nn.hooks import intercept
from cnn_jax.nn.init import ACTIVATIONS
from cnn_jax.nn.layers import LocalResponseNorm
from cnn_jax.nn.pooling import AdaptiveAveragePool, Pool


def members(model: Any) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
    """Yields (name, layer) of the network's layers before the head; a stage yields its blocks."""
    for name in model.order:
        layer = getattr(model, name)
        if isinstance(layer, nnx.List):
            yield from ((f"{name}/{i}", block) for i, block in enumerate(layer))
        elif not isinstance(layer, nnx.Dropout):
            yield name, layer


def run(model: Any, x: jax.Array, change: Callable[[str, jax.Array], jax.Array]) -> jax.Array:
    """Returns the class scores [B, K], with `change(name, output)` instead of every layer's output."""
    names: dict[int, str] = {}
    seen: set[str] = set()

    def reported(layer: nnx.Module, _: jax.Array, y: jax.Array) -> jax.Array:
        if id(layer) not in names:  # equal blocks get their names when they are called, see `models.repeated`
            names.update({id(node): trees.path_name(path) for path, node in nnx.iter_graph(model)})
        seen.add(names[id(layer)])
        return change(names[id(layer)], y)

    with intercept(reported):
        for name, layer in members(model):
            x = layer(x)
            x = x if name in seen else change(name, x)
        return model.head(x)


def outputs(model: Any, x: jax.Array) -> dict[str, jax.Array]:
    """Returns the output of every layer by its name, in the order of the calls."""
    kept: dict[str, jax.Array] = {}

    def keep(name: str, y: jax.Array) -> jax.Array:
        kept[name] = y
        return y

    run(model, x, keep)
    return kept


def output_shapes(model: Any, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every layer's output without batch, for images of `shape` [H, W, C]; computes nothing."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    graphdef, state = nnx.split(model)
    names: list[str] = []

    def traced(state: Any, x: jax.Array) -> list[jax.Array]:
        found = outputs(nnx.merge(graphdef, state), x)
        names.extend(found)  # jax would return a dict sorted by its names
        return list(found.values())

    return {name: y.shape[1:] for name, y in zip(names, jax.eval_shape(traced, state, image), strict=True)}


def check_maps(layer: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises UserError unless `layer` is one of `shapes`, see `output_shapes`, and has maps [H, W, C]."""
    with_maps = [name for name, shape in shapes.items() if len(shape) == 3]
    if layer not in shapes:
        known = ", ".join(with_maps)
        raise UserError(f"--layer: there is no layer {layer!r}{near(layer, shapes)}. Layers with maps: {known}")
    check(
        len(shapes[layer]) == 3,
        f"--layer: {layer!r} has no maps, but {shapes[layer][-1]} numbers for an image. Layers with maps: "
        f"{', '.join(with_maps) or 'none'}",
    )


def last_maps(model: Any, shapes: dict[str, tuple[int, ...]]) -> str:
    """Returns the layer whose maps Grad-CAM takes by default: the last one before the head that has several positions
    and does more than pool or normalize (Selvaraju et al. 2017, section 3: "the last convolutional layer").

    Raises:
      UserError: there is none.
    """
    sizes = [(name, layer) for name, layer in members(model) if max(shapes[name][:-1]) > 1 and len(shapes[name]) == 3]
    rest = (Pool, AdaptiveAveragePool, LocalResponseNorm)
    found = [name for name, layer in sizes if not isinstance(layer, rest)]
    check(bool(found), "the network has no maps before its head")
    return found[-1]


def applied(model: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function(model, *arrays)` as a compiled function of the arrays."""
    graphdef, state = nnx.split(model)
    return partial(jax.jit(lambda state, *arrays: function(nnx.merge(graphdef, state), *arrays)), state)


# ---------------------------------------------------------------- class activation maps


def class_activation_maps(model: Any, x: jax.Array) -> jax.Array:
    """Returns what each position of the last maps adds to each class's score, float32 [B, H', W', K].

    With the head "gap": the maps weighted by the classifier, whose mean over all positions is the class's score without
    its bias (Zhou et al. 2016, eq. 2). With "conv": the class's own map, whose mean is the score (Lin et al. 2013).
    """
    maps, head = model.features(x), model.head
    check(head.classifier is not None, "num_classes is 0, but class activation maps need classes")
    if head.kind == "conv":
        return head.activation(head.classifier(maps)).astype(jnp.float32)
    assert head.kind == "gap"
    kernel = head.classifier.kernel[...].astype(jnp.float32)
    return jnp.einsum("bhwc,ck->bhwk", maps.astype(jnp.float32), kernel, precision="highest")


def grad_cam(model: Any, x: jax.Array, layer: str, classes: jax.Array) -> jax.Array:
    """Returns Grad-CAM of a layer's maps, float32 [B, H', W', N] (Selvaraju et al. 2017, eq. 1 and 2).

    The maps are weighted by the mean gradient of the class's score, before the softmax, with respect to each of them;
    negative values are set to zero.

    Args:
      classes: int [B, N], the classes of each image.
    """

    def scores(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = {}

        def change(name: str, y: jax.Array) -> jax.Array:
            if name == layer:
                kept[name] = y
                return y + added
            return y

        return run(model, x, change), kept[layer]

    zeros = jnp.zeros_like(outputs(model, x)[layer])
    values, pull, maps = jax.vjp(scores, zeros, has_aux=True)
    found = []
    for column in classes.T:
        (gradient,) = pull(jax.nn.one_hot(column, values.shape[-1], dtype=values.dtype))
        weights = gradient.astype(jnp.float32).mean((1, 2))
        found.append(jax.nn.relu(jnp.einsum("bhwc,bc->bhw", maps.astype(jnp.float32), weights, precision="highest")))
    return jnp.stack(found, axis=-1)


# ---------------------------------------------------------------- deconvolution


@jax.custom_vjp
def _rectify_both_ways(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


_rectify_both_ways.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, signal: (jax.nn.relu(signal),))


def _pass_back(layer: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    """Passes the signal through a local response normalization unchanged."""
    return x + jax.lax.stop_gradient(y - x) if isinstance(layer, LocalResponseNorm) else y


def deconvolve(model: Any, x: jax.Array, layer: str, channels: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns the part of each image that caused one activation, by a deconvolutional network: [B, H, W, C].

    Zeiler & Fergus 2014, section 2.1. All activations of the layer but one are set to zero. Then the signal goes back
    through transposed filters, through max pooling to the position of the maximum (the switches), and is rectified
    where the network rectifies, regardless of the sign in the forward pass. That is the gradient with another rule for
    ReLU. The paper's network has no other layers. Here average pooling spreads the signal evenly, batch normalization,
    a factor in evaluation, counts as part of the filters, local response normalization passes the signal unchanged, and
    where paths branch, as before a shortcut, their signals add up.

    Args:
      channels, positions: of the activation in each image: int [B], and (row, column), int [B, 2].

    Raises:
      UserError: the activation function is not ReLU.
    """
    rectifying = nnx.merge(*nnx.split(model))
    for _, node in nnx.iter_graph(rectifying):
        for attribute, value in list(vars(node).items()) if isinstance(node, nnx.Module) else ():
            kind = next((kind for kind, function in ACTIVATIONS.items() if value is function), "linear")
            check(
                kind in ("relu", "linear"),
                f"the deconvolution rectifies where the network does, but this network's activation is {kind}: train "
                "one with --config.model.activation=relu",
            )
            if kind == "relu":
                setattr(node, attribute, _rectify_both_ways)
    with intercept(_pass_back):
        maps, pull = jax.vjp(lambda x: outputs(rectifying, x)[layer], x)
    places = (jnp.arange(len(x)), positions[:, 0], positions[:, 1], channels)
    (signal,) = pull(jnp.zeros_like(maps).at[places].set(maps[places]))
    return signal


def strongest(model: Any, x: jax.Array, layer: str) -> tuple[jax.Array, jax.Array]:
    """Returns the largest activation of every map, [B, C], and its (row, column), int [B, C, 2]; of equal ones the
    first."""
    maps = outputs(model, x)[layer]
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    places = jnp.stack(jnp.unravel_index(flat.argmax(1), maps.shape[1:3]), axis=-1)
    return flat.max(1), places


def seen_by(model: Any, shape: Sequence[int], layer: str) -> receptive_field.ReceptiveField:
    """Returns what a layer's first position sees of images of `shape` [H, W, C], and the step to the next position."""
    graphdef, state = nnx.split(model)
    traced = jax.make_jaxpr(lambda state, x: outputs(nnx.merge(graphdef, state), x)[layer])(
        state, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    inputs = [None] * (len(traced.jaxpr.invars) - 1) + [receptive_field.image(len(shape) - 1)]
    (field,) = receptive_field.receptive_fields(traced, inputs)
    assert field is not None
    return field


def patch(field: receptive_field.ReceptiveField, position: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """Returns the part of an image of `sizes` that one position sees: (rows, columns).

    A receptive field that reaches past a border is moved inside, so that all parts have one size; if it is larger than
    the image, the part is the whole image.
    """
    parts = []
    for seen, i, size in zip(field.seen, position, sizes, strict=True):
        length = min(seen.high - seen.low + 1, size)
        start = min(max(seen.low + int(i) * (seen.jump or 0), 0), size - length)
        parts.append(slice(start, start + length))
    return tuple(parts)
