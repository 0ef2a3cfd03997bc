"""A trained network ready for use: from images, or files, to class scores, probabilities and features."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from cnn_jax import models
from cnn_jax.analysis import attribution, introspection
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check, check_choice, near
from cnn_jax.core.progress import progress_bar
from cnn_jax.core.text import printable
from cnn_jax.data import augment, crops
from cnn_jax.data.arrays import StoredArray
from cnn_jax.data.dataset import SEEN
from cnn_jax.data.decode import Frames, Picture, UnreadableError, converted, to_array
from cnn_jax.data.find import find
from cnn_jax.data.workers import read_ahead
from cnn_jax.nn import cpu
from cnn_jax.nn.hooks import capture
from cnn_jax.pretrained import class_names
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.channels import with_channels
from cnn_jax.pretrained.features import Features


@dataclass(frozen=True)
class Computed:
    """values: [N, F] of the files that could be read. kept: their indices. unreadable: file -> what is wrong."""

    values: np.ndarray
    kept: list[int]
    unreadable: dict[str, str]

    @property
    def exit_code(self) -> int:
        """1 if a file was left out."""
        return 1 if self.unreadable else 0


def load(source: str | Path, *, num_classes: int | None = None, channels: int | None = None) -> "Predictor":
    """Returns the trained network that a SOURCE names (see `cnn_jax.pretrained.source`): a run, an exported file.

    Args:
      num_classes: 0: without its classifier. channels: of the images; see `channels.with_channels`. None: its own.

    Raises:
      UserError: there is no such source, or it is damaged.
    """
    check(
        num_classes in (None, 0),
        f"num_classes is {num_classes}, but a trained network has its own classes: 0 leaves them out, for features; "
        f"for other classes train it, cnn_jax finetune {source} --data=DATASET",
    )
    found = pretrained.open_source(str(source))
    return Predictor(found if channels is None else with_channels(found, channels), headless=num_classes == 0)


class Predictor:
    """A trained network: `predictor(images)` are class scores, or features if it is `headless`.

    Images are a batch uint8 [B, *spatial, C] of any size, or a list of examples: files as `data.folder` reads them
    (JPEG, PNG; clips and sequences for networks that take those), Pillow images, or arrays uint8 [*spatial, C]. They
    are resized and cropped as the test images of its training were, and normalized.

    With `prepared`, images are the result of `prepare`, which may run in other threads.

    model: the `nnx.Module` in evaluation mode. classes: the names of the classes, see `class_names.words`.
    """

    def __init__(self, source: pretrained.Pretrained, *, headless: bool = False):
        self.source = source
        self.image_size = tuple(source.input["image_size"])
        self.channels = source.input["channels"]
        self.model = build(source, headless=headless)
        self.classes = [] if headless else class_names.words(source.classes, source.num_classes)
        mean, std = (np.asarray(source.input[name], np.float32) for name in ("mean", "std"))

        graphdef, self._state = nnx.split(self.model)

        def merged(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
            return nnx.merge(graphdef, state), augment.normalize(images, mean, std)

        @cpu.fast()
        def scores(state: Any, images: jax.Array) -> jax.Array:
            model, values = merged(state, images)
            return model(values)

        @cpu.fast()
        def features(state: Any, images: jax.Array) -> jax.Array:
            model, values = merged(state, images)
            if model.head.classifier is None:
                return model(values)
            with capture() as calls:
                model(values)
            x = next(x for layer, x, _ in calls if layer is model.head.classifier)
            return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))

        def pixels(state: Any, images: jax.Array) -> jax.Array:
            _, values = merged(state, images)
            return values.reshape(len(values), -1)

        self._merged = merged
        self._outputs: dict[str, Any] = {}
        self._scores, self._features, self._pixels = jax.jit(scores), jax.jit(features), jax.jit(pixels)

    def __repr__(self) -> str:
        images = "x".join(map(str, (*self.image_size, self.channels)))
        return f"Predictor({self.source.description}; images {images}, {len(self.classes)} classes)"

    def prepare(self, images: Any) -> np.ndarray:
        """Returns images as the network sees them, uint8 [B, *image_size, C] (sequences float32), not normalized.

        Raises:
          UserError: a file cannot be read, or an image has other channels or axes than the network takes.
        """
        if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 2):
            raise UserError("give a list of images, or an array [B, ...] of them, not a single one")
        view = SimpleNamespace(**{name: self.source.input[name] for name in SEEN})
        view.image_size, view.placement = self.image_size, "device"
        rows = []
        for i, image in enumerate(images):
            if isinstance(image, Image.Image):
                image = to_array(converted(image, self.channels))
            stored = self._open(Path(image)) if isinstance(image, (str, Path)) else np.asarray(image)
            if isinstance(stored, np.ndarray):
                wanted = (*self.image_size, self.channels)
                check(
                    stored.ndim == len(wanted) and stored.shape[-1] == self.channels,
                    f"image {i} has the shape {list(stored.shape)}, but the network takes {list(wanted)}: sizes may "
                    f"differ, the number of axes and of channels may not{_hint(stored.shape, wanted)}",
                )
                check(
                    stored.dtype == np.uint8 or len(self.image_size) == 1,
                    f"image {i} is of {stored.dtype}, but must be uint8: values from 0 to 255",
                )
            rows.append(crops.crop(stored, view, train=False))
        check(bool(rows), "there are no images")
        return np.stack(rows)

    def _open(self, file: Path) -> Any:
        """Returns the example in a file (a clip may be a folder of frames), which is read when it is asked for."""
        axes = len(self.image_size)
        if axes == 2:
            return Picture(file, self.channels)
        if axes == 3 and file.is_dir():
            return Frames(file, self.channels)
        return StoredArray(file, self.channels, axes)

    def __call__(self, images: Any, *, prepared: bool = False) -> jax.Array:
        """Returns class scores, float32 [B, K]; without a classifier what it would see, [B, F]."""
        return self._scores(self._state, images if prepared else self.prepare(images))

    def probabilities(self, images: Any, *, prepared: bool = False) -> jax.Array:
        """Returns class probabilities, float32 [B, K].

        Raises:
          UserError: it has no classifier.
        """
        check(bool(self.classes), f"{self.source.name} was loaded with num_classes=0: it has features, but no classes")
        return jax.nn.softmax(self(images, prepared=prepared))

    def features(self, images: Any, *, prepared: bool = False) -> jax.Array:
        """Returns the input of the last layer for each image, float32 [B, F]; of maps, the average over positions."""
        return self._features(self._state, images if prepared else self.prepare(images))

    def outputs(self, images: Any, layer: str) -> jax.Array:
        """Returns the output of a layer for each image, float32 [B, ...].

        Args:
          layer: its name in the layer table, such as "conv2".

        Raises:
          UserError: there is no such layer; the message has the near match.
        """
        shapes = introspection.output_shapes(self.model, (*self.image_size, self.channels))
        check(layer in shapes, f"there is no layer {layer!r}{near(layer, shapes)}. Layers: {', '.join(shapes)}")
        if layer not in self._outputs:

            def output(state: Any, images: jax.Array) -> jax.Array:
                model, values = self._merged(state, images)
                return introspection.outputs(model, values)[layer].astype(jnp.float32)

            self._outputs[layer] = jax.jit(output)
        return self._outputs[layer](self._state, self.prepare(images))

    def attribution(self, images: Any, method: str, classes: Any = None, *, prepared: bool = False) -> np.ndarray:
        """Returns which positions of each image speak for classes, float32 [B, H, W, N]; see `analysis.attribution`.

        The baseline of integrated gradients and what hides in occlusion is a black image.

        Args:
          method: saliency, integrated_gradients, smoothgrad or occlusion. classes: int [B, N]; None: the likeliest one.

        Raises:
          UserError: no such method, the examples are not images, or it has no classifier.
        """
        check_choice("method", method, attribution.NAMES)
        check(len(self.image_size) == 2, "attributions are of images, but this network takes other examples")
        images = images if prepared else self.prepare(images)
        if classes is None:
            classes = np.argmax(self.probabilities(images, prepared=True), axis=-1)[:, None]
        _, values = self._merged(self._state, jnp.asarray(images))
        _, black = self._merged(self._state, jnp.zeros_like(jnp.asarray(images[:1])))
        classes = jnp.asarray(classes)
        if method == "occlusion":
            return attribution.occlusion(self.model, values, classes, black)
        function = getattr(attribution, method)
        rest = {"integrated_gradients": (black,), "smoothgrad": (jax.random.key(0),)}.get(method, ())
        return np.asarray(introspection.applied(self.model, function)(values, classes, *rest))

    def pixels(self, images: Any, *, prepared: bool = False) -> jax.Array:
        """Returns the network's input values of each image, float32 [B, F]: the baseline for features."""
        return self._pixels(self._state, images if prepared else self.prepare(images))

    def compute(
        self, files: Sequence[Path], quantity: str, *, batch_size: int = 64, skip: bool = False, timeout: float = 600.0
    ) -> Computed:
        """Returns a quantity of files, "probabilities", "features" or "pixels", in batches that threads read ahead.

        Args:
          skip: leaves out files that cannot be read, and names them on the error output.
          timeout: seconds to wait for a file.

        Raises:
          UserError: a file cannot be read and is not to be left out, or none can.
        """

        def read(file: Path) -> Any:
            try:
                return self.prepare([file])[0]
            except UnreadableError as error:
                if not skip:
                    raise UnreadableError(f"{error}; --on-error=skip leaves such files out") from None
                return error

        size = min(batch_size, len(files))
        values, rows, kept, unreadable = [], [], [], {}

        def step() -> None:
            batch = np.stack(rows + [rows[0]] * (size - len(rows)))  # one shape, which is compiled once
            values.append(np.asarray(getattr(self, quantity)(batch, prepared=True))[: len(rows)])
            rows.clear()

        reading = read_ahead(
            *(read, files),
            workers=min(32, 2 * (os.cpu_count() or 1)),
            ahead=2 * size,
            timeout=timeout,
            flag="--timeout",
        )
        with progress_bar("pictures", len(files)) as advance:
            for i, result in enumerate(reading):
                if isinstance(result, UnreadableError):
                    unreadable[str(files[i])] = str(result)
                else:
                    rows.append(result)
                    kept.append(i)
                if len(rows) == size:
                    step()
                advance(1)
            if rows:
                step()
        for reason in unreadable.values():
            print(printable(f"left out: {reason}"), file=sys.stderr)
        check(bool(kept), f"none of the {len(files)} files can be read")
        if unreadable:
            print(f"{len(unreadable)} of {len(files)} files are left out", file=sys.stderr)
        return Computed(np.concatenate(values), kept, unreadable)

    def embed(self, words: list[str], *, pixels: bool = False, **reading: Any) -> Features:
        """Returns the features of the pictures that `words` name: files, folders, patterns (see `data.find`).

        Args:
          pixels: return the network's input values instead of its features. reading: as in `compute`.

        Raises:
          UserError: as in `compute`; a word matches no file.
        """
        examples = find(words, len(self.image_size))
        if examples.note:
            print(examples.note, file=sys.stderr)
        found = examples.found
        done = self.compute([example.file for example in found], "pixels" if pixels else "features", **reading)
        kept = [found[i] for i in done.kept]
        return Features(
            done.values,
            [str(example.file) for example in kept],
            [example.group for example in kept],
            self.source.name + (":pixels" if pixels else ""),
            done.exit_code,
        )


def _hint(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Returns what to do about an image whose channels come first, or that has no axis of channels; else ""."""
    if len(shape) == len(wanted) and shape[0] == wanted[-1]:
        return ". Its channels come first, as in NCHW: transpose it, such as np.moveaxis(x, 0, -1)"
    if len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        return ". It has no axis of channels: add it, x[..., None]"
    return ""


def build(source: pretrained.Pretrained, *, headless: bool = False) -> Any:
    """Returns the network of a source with its weights, in evaluation mode; no initial values are computed.

    With `headless` it has no classifier, and no auxiliary ones.

    Raises:
      UserError: its arrays are not those of the network that it names; all of them are listed.
    """
    name = source.model["name"]
    shape = (*source.input["image_size"], source.input["channels"])
    fields = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in source.model.items()
        if field != "name"
    }
    if headless and fields.get("auxiliary"):
        fields["auxiliary"] = False
    num_classes = 0 if headless else source.num_classes
    shapes = jax.eval_shape(lambda: models.create(name, num_classes=num_classes, input_shape=shape, **fields))
    graphdef, state = nnx.split(
        nnx.view(shapes, deterministic=True, use_running_average=True, raise_if_not_found=False)
    )
    state = nnx.to_pure_dict(state)
    wanted = dict(trees.named_leaves(state))
    shapes = {path: list(leaf.shape) for path, leaf in source.leaves.items()}
    misfits = [
        f"  {path}: {shapes.get(path, 'absent')} there, {list(leaf.shape)} in {name}"
        for path, leaf in wanted.items()
        if shapes.get(path) != list(leaf.shape)
    ]
    check(not misfits, f"{source.name} does not have the arrays of {name}:\n" + "\n".join(misfits))

    def value(path: tuple, leaf: Any) -> jax.Array:
        return jnp.asarray(source.leaves[trees.path_name(path)], leaf.dtype)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(value, state))
