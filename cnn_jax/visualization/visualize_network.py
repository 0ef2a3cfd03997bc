"""The pictures of a trained network: its filters, maps, class activation maps, deconvolution, embeddings."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis import attribution, introspection
from cnn_jax.core.errors import UserError, check, check_choice
from cnn_jax.data import augment
from cnn_jax.nn.layers import Conv
from cnn_jax.pretrained.predictor import Predictor
from cnn_jax.visualization import inside_plots
from cnn_jax.visualization.pictures import Pictures

MOST_ROWS = 12  # of class activation maps: more do not fit on a page
BATCH = 16


@dataclass(frozen=True)
class DrawOptions:
    """The flags of `cnn_jax.visualize`; the number of maps is 0 if none is given."""

    layer: str | None = None
    classes: Sequence[str] = ()
    maps: int = 0
    method: str = "tsne"
    thumbnails: bool = False


def normalized(predictor: Predictor, images: np.ndarray) -> jax.Array:
    """Returns images as the network's first layer sees them, float32 [B, H, W, C]."""
    mean, std = (np.asarray(predictor.source.input[name], np.float32) for name in ("mean", "std"))
    return augment.normalize(jnp.asarray(images), mean, std)


def layer_shapes(predictor: Predictor) -> dict[str, tuple[int, ...]]:
    """Returns the output shape of every layer."""
    return introspection.output_shapes(predictor.model, (*predictor.image_size, predictor.channels))


def batches(count: int) -> list[slice]:
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def only(pictures: Pictures, picture: str) -> None:
    count = len(pictures.images)
    check(count == 1, f"{picture} shows one picture, but {count} are named: name one")


# ---------------------------------------------------------------- the pictures


def filters(predictor: Predictor, _: Pictures | None, __: DrawOptions, path: Path) -> str:
    """Draws the kernels of the first convolution in `path` and returns what is drawn.

    Raises:
      UserError: the network has no convolution.
    """
    shapes = layer_shapes(predictor)
    name = next((name for name in shapes if isinstance(_node(predictor.model, name), Conv)), None)
    if name is None:
        raise UserError(f"{predictor.source.name} has no convolution, whose filters could be drawn")
    kernels = np.asarray(_node(predictor.model, name).kernel[...], np.float32)
    height, width, channels, count = kernels.shape
    check(channels in (1, 3), f"the kernels of {name} have {channels} channels, but 1 or 3 can be drawn")
    about = f"{_about(predictor)}: the {count} filters of {name}, {height}x{width}x{channels}"
    largest = float(np.abs(kernels).max())
    scale = "" if channels == 1 else f"\none scale for all, from -{largest:.2g} to {largest:.2g}; gray is 0"
    inside_plots.plot_filters(kernels, path, title=about + scale)
    return about


def features(predictor: Predictor, pictures: Pictures, options: DrawOptions, path: Path) -> str:
    """Draws the strongest maps of a layer, those of the largest mean value (for values with signs, of the absolute
    values).

    Raises:
      UserError: several pictures, no such layer, or one without maps.
    """
    only(pictures, "features")
    shapes = layer_shapes(predictor)
    layer = options.layer or next((name for name, shape in shapes.items() if len(shape) == 3), "")
    introspection.check_maps(layer, shapes)
    found = introspection.applied(predictor.model, lambda model, x: introspection.outputs(model, x)[layer])
    maps = np.asarray(found(normalized(predictor, pictures.images))[0], np.float32)
    height, width, count = maps.shape
    shown = min(options.maps or 24, count)
    chosen = np.argsort(-np.abs(maps).mean((0, 1)), kind="stable")[:shown]
    which = f"the {shown} strongest of {count} maps" if shown < count else f"all {count} maps, the strongest first"
    about = f"{_about(predictor)}: {layer}, {which}, {height}x{width}"
    caption = pictures.names[0]
    inside_plots.plot_maps(
        pictures.images[0], maps[..., chosen].transpose(2, 0, 1), chosen.tolist(), path, title=about, caption=caption
    )
    if options.layer:
        return about
    return f"{about}\nlayers with maps: {', '.join(name for name, shape in shapes.items() if len(shape) == 3)}"


def cam(predictor: Predictor, pictures: Pictures, options: DrawOptions, path: Path) -> str:
    """Draws class activation maps over pictures: exact ones for a head that averages; otherwise, or for a layer,
    Grad-CAM.

    Raises:
      UserError: too many pictures, an unknown class, no such layer, or one without maps.
    """
    model, shapes, x = predictor.model, layer_shapes(predictor), normalized(predictor, pictures.images)
    classes = chosen(predictor, pictures, options, "cam")
    if model.head.kind in ("gap", "conv") and options.layer is None:
        how, scale = "class activation maps", "part of the class's score"
        maps = np.take_along_axis(
            np.asarray(introspection.applied(model, introspection.class_activation_maps)(x)),
            classes[:, None, None],
            axis=-1,
        )
    else:
        layer = options.layer or introspection.last_maps(model, shapes)
        introspection.check_maps(layer, shapes)
        how, scale = f"Grad-CAM at {layer}", "share of the map's largest"
        draw = introspection.applied(model, lambda model, x, classes: introspection.grad_cam(model, x, layer, classes))
        maps = np.asarray(draw(x, jnp.asarray(classes)))
        maps = maps / np.maximum(maps.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)  # own scale for each class
    height, width = maps.shape[1:3]
    about = f"{_about(predictor)}: {how}, {height}x{width}"
    if height * width == 1:
        about += ": one value for the whole picture shows no position; choose an earlier layer with --layer"
    inside_plots.plot_cams(_rows(predictor, pictures, classes, maps), path, title=about, scale=scale)
    return about


def chosen(predictor: Predictor, pictures: Pictures, options: DrawOptions, picture: str) -> np.ndarray:
    """Returns the classes to show of each picture, int [B, N]: those of --class, else the likeliest 3.

    Raises:
      UserError: too many pictures, or an unknown class.
    """
    count = len(pictures.images)
    check(count <= MOST_ROWS, f"{picture} draws a row for each picture, at most {MOST_ROWS}, but {count} are named")
    for name in options.classes:
        check_choice("--class", name, predictor.classes)
    if options.classes:
        return np.array([[predictor.classes.index(name) for name in options.classes]] * count)
    return np.argsort(-np.asarray(predictor.probabilities(pictures.images)), axis=1, kind="stable")[:, :3]


def _rows(predictor: Predictor, pictures: Pictures, classes: np.ndarray, maps: np.ndarray) -> list[Any]:
    """Returns the rows of `inside_plots.plot_cams`."""
    shares = np.asarray(predictor.probabilities(pictures.images))
    return [
        (
            pictures.images[i],
            pictures.names[i],
            [(predictor.classes[k], float(shares[i, k]), maps[i, ..., j]) for j, k in enumerate(classes[i])],
        )
        for i in range(len(pictures.images))
    ]


def attributed(method: str, predictor: Predictor, pictures: Pictures, options: DrawOptions, path: Path) -> str:
    """Draws over pictures what `Predictor.attribution` returns for classes; see `cam`.

    Raises:
      UserError: too many pictures, or an unknown class.
    """
    classes = chosen(predictor, pictures, options, method)
    maps = predictor.attribution(pictures.images, method, classes, prepared=True)
    # Few single pixels would hide all others: Smilkov et al. 2017, section 3.1, cap them at the 99th percentile.
    largest = np.quantile(maps, 0.99, axis=(1, 2), keepdims=True)
    maps = np.minimum(maps / np.maximum(largest, np.finfo(np.float32).tiny), 1)
    about = f"{_about(predictor)}: {attribution.NAMES[method]}"
    scale = "share of the map's 99th percentile"
    inside_plots.plot_cams(_rows(predictor, pictures, classes, maps), path, title=about, scale=scale, contours=False)
    return about


saliency, integrated_gradients, smoothgrad, occlusion = (
    functools.partial(attributed, method) for method in attribution.NAMES
)


def deconv(predictor: Predictor, pictures: Pictures, options: DrawOptions, path: Path) -> str:
    """Draws what caused the strongest activations of a layer's maps, in the pictures in which they are strongest.

    Raises:
      UserError: no such layer, one without maps or whose maps are all zero, or the network does not rectify.
    """
    model, shapes = predictor.model, layer_shapes(predictor)
    layer = options.layer or introspection.last_maps(model, shapes)
    introspection.check_maps(layer, shapes)
    find = introspection.applied(model, lambda model, x: introspection.strongest(model, x, layer))
    parts = [find(normalized(predictor, pictures.images[part])) for part in batches(len(pictures.images))]
    values, places = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
    columns = min(3, int(np.sqrt(len(pictures.images))))
    each = columns**2
    order = np.argsort(-values, axis=0, kind="stable")[:each]  # [each, maps]: the pictures of every map
    alive = np.flatnonzero(np.take_along_axis(values, order, axis=0)[-1] > 0)
    check(len(alive) > 0, f"no map of {layer} is above zero in {each} of these pictures: take others, or another layer")
    chosen = alive[np.argsort(-values.max(0)[alive], kind="stable")][: options.maps or 8]
    field = introspection.seen_by(model, pictures.images.shape[1:], layer)
    project = introspection.applied(
        model, lambda model, x, channels, positions: introspection.deconvolve(model, x, layer, channels, positions)
    )
    drawn = []
    for channel in chosen:
        rows = order[:, channel]
        positions = places[rows, channel]
        signals = np.asarray(
            project(normalized(predictor, pictures.images[rows]), jnp.full(each, channel), jnp.asarray(positions)),
            np.float32,
        )
        windows = [introspection.patch(field, position, predictor.image_size) for position in positions]
        seen = [pictures.images[row][window] for row, window in zip(rows, windows, strict=True)]
        caused = [signal[window] for signal, window in zip(signals, windows, strict=True)]
        largest, least = values[rows[0], channel], values[rows[-1], channel]
        caption = f"map {channel}: {largest:.3g}" + (f" to {least:.3g}" if each > 1 else "")
        drawn.append((caption, np.stack(caused), np.stack(seen)))
    height, width = drawn[0][1].shape[1:3]
    pictured = f"the {each} pictures" if each > 1 else "the picture"
    about = f"{_about(predictor)}: deconvolution of {layer}, {len(chosen)} of {shapes[layer][-1]} maps"
    title = f"{about}\nnext to what they see ({height}x{width}) of {pictured} where they are strongest"
    inside_plots.plot_deconvolutions(drawn, path, title=title, columns=columns)
    return title.replace("\n", ", ")


def embedding(predictor: Predictor, pictures: Pictures, options: DrawOptions, path: Path) -> str:
    """Draws what the last layer sees of pictures in two dimensions, by t-SNE (van der Maaten & Hinton 2008) or PCA.

    Raises:
      UserError: fewer than 4 pictures.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(pictures.images)
    check(count >= 4, f"an embedding needs at least 4 pictures, but there are {count}")
    values = [np.asarray(predictor.features(pictures.images[part]), np.float64) for part in batches(count)]
    values = np.concatenate(values)
    check(bool((values != values[0]).any()), f"{predictor.source.name} has the same features for all of these pictures")
    if options.method == "pca":
        reduced = PCA(2, svd_solver="full")
        points = reduced.fit_transform(values)
        axes = tuple(
            f"principal component {i}, {share:.0%} of the variance"
            for i, share in enumerate(reduced.explained_variance_ratio_, start=1)
        )
        how = "PCA"
    else:
        perplexity = min(30.0, (count - 1) / 3)
        points = TSNE(2, init="pca", perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(values)
        axes, how = ("", ""), f"t-SNE, perplexity {perplexity:g}"
    classes = len(set(pictures.classes))
    kinds = "one class" if classes == 1 else f"{classes} classes"
    about = f"{_about(predictor)}: {values.shape[1]} features of {count} pictures of {kinds}, {how}"
    images = pictures.images if options.thumbnails else None
    inside_plots.plot_embedding(points, pictures.classes, path, title=about, axes=(axes[0], axes[1]), images=images)
    return about


def _about(predictor: Predictor) -> str:
    return f"{predictor.source.model['name']} of {inside_plots.short(predictor.source.name, 2.5)}"


def _node(model: Any, name: str) -> Any:
    """Returns the module of a layer's name."""
    for part in name.split("/"):
        model = model[int(part)] if part.isdecimal() and not hasattr(model, part) else getattr(model, part)
    return model
