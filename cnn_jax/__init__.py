"""The classic convolutional networks in JAX.

import cnn_jax

network = cnn_jax.create("resnet50")            # an nnx.Module: images [B, 224, 224, 3] -> scores [B, 1000]
cnn_jax.train("lenet5", "runs/lenet5")          # a recipe, into a folder
cnn_jax.load("runs/lenet5")(images)             # class scores of images, or of files
"""

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax.models import create

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    from cnn_jax.pretrained.predictor import Predictor

# `import cnn_jax` imports no jax: the functions do.

__all__ = ["create", "features", "list_models", "list_pretrained", "load", "score", "summarize", "train"]
__version__ = "0.1.0"


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of networks that `create` builds, those that match a pattern.

    Examples:
      >>> list_models("vgg16*")
      ['vgg16', 'vgg16c']
    """
    from cnn_jax.models import MODELS

    return sorted(fnmatch.filter(MODELS, pattern))


def list_pretrained() -> list[str]:
    """Returns the names of the pretrained networks that come with the package, for `load`.

    Examples:
      >>> list_pretrained()
      ['bundled:lenet5-digits', 'bundled:lenet5-mnist', 'bundled:resnet20-cifar10']
    """
    from cnn_jax.pretrained.source import BUNDLED, bundled

    return sorted(BUNDLED + name for name in bundled())


def load(source: str | Path, *, num_classes: int | None = None, channels: int | None = None) -> "Predictor":
    """Returns a pretrained network ready for use, a `cnn_jax.pretrained.predictor.Predictor`.

    Args:
      source: a SOURCE: the folder of a run (FOLDER, FOLDER@best, FOLDER@STEP), bundled:NAME, a file of weights
        (.safetensors, .pth) or hub:OWNER/NAME; see `cnn_jax.pretrained.source`.
      num_classes: 0: without its classifier, so that it returns features. None: with its classes.
      channels: of the images, where they have others than it was trained on: the first convolution is adapted, by the
        sum over its channels for one channel, else by repetition. None: those of its training.

    Raises:
      UserError: there is no such source, or it is damaged.

    Examples:
      >>> import numpy as np
      >>> lenet = load("bundled:lenet5-digits")
      >>> lenet.probabilities(np.zeros((1, 28, 28, 1), np.uint8)).shape
      (1, 10)
    """
    from cnn_jax.pretrained import predictor

    return predictor.load(source, num_classes=num_classes, channels=channels)


def train(config: Any, workdir: str | Path, data: "Mapping[str, Any] | None" = None, **options: Any) -> dict[str, Any]:
    """Trains a network and returns its final metrics, {"validation": {"error": ...}, "test": {"error": ...}}.

    The folder resumes if it holds a run of the same configuration. Signals are left alone: Ctrl-C raises
    KeyboardInterrupt, and the run resumes from its last checkpoint.

    Args:
      config: a ConfigDict, or a recipe by name with an optional data set, such as "resnet20:cifar10".
      workdir: folder of results, or the URL of one in a bucket.
      data: what to train on instead of a data set by name: "train", "test" and, if there is one, "validation", each
        (images uint8 [N, H, W, C], labels int [N]), or anything with `__len__` and `__getitem__`, such as a data set of
        torch; "classes" are their names. `config` is a recipe by name, whose image size the images are resized to, or
        a ConfigDict for the data set "given". Give the same data to resume.
      **options: of `cnn_jax.training.session.Options`: dry_run, extend, profile, console.

    Raises:
      UserError: see `cnn_jax.training.loop.run`.

    Examples:
      >>> from cnn_jax.config import recipes
      >>> config = recipes.load("lenet5")
      >>> config.duration = "20 epochs"
      >>> train(config, "runs/lenet5")["test"]["error"]  # doctest: +SKIP
      0.0167
    """
    from functools import partial

    from cnn_jax.config import recipes
    from cnn_jax.core import files
    from cnn_jax.data import sources
    from cnn_jax.data.sources import custom
    from cnn_jax.training import loop
    from cnn_jax.training.session import Options

    if isinstance(config, str):
        recipe, _, argument = config.partition(":")
        config = recipes.load(recipe, argument or (None if data is None else custom.GIVEN))
        if data is not None:
            config.data.channels = custom.channels(data)
    folder, opener = files.located("workdir", str(workdir)), None
    if data is not None:
        opener = partial(sources.open_dataset, opener=partial(custom.open_given, data, ("train", "test")))
    return loop.run(config.lock(), folder, Options(**options), open_dataset=opener)


def score(source: str | Path, data: "str | Mapping[str, Any]", **fields: Any) -> dict[str, Any]:
    """Returns the metrics of a pretrained network on a data set: loss, error, top5_error, class_accuracy.

    Args:
      source: as of `load`. data: a data set, such as "digits" or "cifar10", a folder of class folders, or a table; or
        what `train` takes as data, of which the part is enough.
      **fields: part ("test"), batch_size, and fields of config.data, such as dir.

    Raises:
      UserError: the data set is not there, or its classes are not those of the network.

    Examples:
      >>> round(score("bundled:lenet5-digits", "digits")["error"], 4)
      0.0084
    """
    from cnn_jax.eval.score import score
    from cnn_jax.pretrained.source import open_source

    return score(open_source(str(source)), data, **fields)


def summarize(network: str, **fields: Any) -> str:
    """Returns the layer table of a network as text: shapes, parameters, MACs, memory, receptive fields.

    Args:
      network: as of `create`, with its fields.

    Raises:
      UserError: see `create`.

    Examples:
      >>> print(summarize("lenet5").splitlines()[0])
      lenet5, one image of 28x28x1
    """
    import functools

    from cnn_jax import models
    from cnn_jax.analysis import layer_sheets, layer_table
    from cnn_jax.display.tables import render

    shape = tuple(fields.get("input_shape", models.fields(network)["input_shape"]))
    rows = layer_table.layer_table(functools.partial(create, network, **fields), shape)
    return render(layer_sheets.sheets(layer_sheets.TracedNetwork(network, shape, 4, rows)), "text")


def features(source: "str | Path | Predictor", images: Any, layer: str | None = None) -> "jax.Array":
    """Returns what a layer of a pretrained network makes of images, float32.

    Args:
      source: as of `load`, or what it returned. images: a batch uint8 [B, H, W, C], or a list of files or arrays.
      layer: a name of the layer table, such as "conv2"; None: the input of the last layer, [B, F].

    Raises:
      UserError: there is no such layer; the message has the near match.

    Examples:
      >>> import numpy as np
      >>> features("bundled:lenet5-digits", np.zeros((2, 28, 28, 1), np.uint8), "pool1").shape
      (2, 14, 14, 6)
    """
    predictor = load(source) if isinstance(source, (str, Path)) else source
    return predictor.features(images) if layer is None else predictor.outputs(images, layer)
