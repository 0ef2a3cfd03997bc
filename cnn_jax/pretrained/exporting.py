"""Writes a trained network to one file: its weights, or its whole function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from rich.console import Console

from cnn_jax.core import files
from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import written
from cnn_jax.data import augment
from cnn_jax.display import terminal
from cnn_jax.pretrained import predictor, torchvision_weights
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.source import NAMES

SUFFIXES = (".safetensors", ".stablehlo")
PLATFORMS = ("cpu", "cuda", "tpu")  # the platforms that a .stablehlo runs on


def write(checkpoint: str, output: str, *, names: str, overwrite: bool) -> None:
    """Writes the trained network of a SOURCE to a file, and prints what it is and how to use it.

    Args:
      output: ends in one of `SUFFIXES`. names, overwrite: see `check_output` and `write_weights`.
    """
    path = Path(output)
    check_output(path, names=names, overwrite=overwrite)
    console = Console()
    with terminal.waiting(console, "reading the trained network"):
        source = pretrained.open_source(checkpoint)
    terminal.say(console, source.description)
    with terminal.waiting(console, f"writing {path}"):
        use = write_function(source, path) if path.suffix == ".stablehlo" else write_weights(source, path, names=names)
    terminal.say(console, f"{path}: {path.stat().st_size:,} bytes; {use}")


def check_output(path: Path, *, names: str, overwrite: bool) -> None:
    """Raises UserError unless `path` can be the file to write."""
    check(path.suffix in SUFFIXES, f"--output={path} must end in {' or '.join(SUFFIXES)}")
    files.check_output(path, "--output")
    check(not path.exists() or overwrite, f"--output={path} is there already: name another, or add --overwrite")
    check(
        path.suffix == ".safetensors" or names == NAMES[0],
        f"--names={names} is about the arrays in a .safetensors: a .stablehlo has no names",
    )


def write_weights(source: pretrained.Pretrained, path: Path, *, names: str = "ours") -> str:
    """Writes the weights as .safetensors; returns how to use them, for people.

    Raises:
      UserError: for names="torchvision": it has no such network; the message lists what differs.
      StorageError: the file cannot be written.
    """
    arrays, use = source.leaves, f"cnn_jax.load({str(path)!r}) takes it"
    if names == "torchvision":
        use = torchvision_call(source.model, source.input, source.num_classes)
        arrays = torchvision_weights.export(predictor.build(source))
    pretrained.save(path, arrays, model=source.model, given=source.input, names=names)
    return use


def torchvision_call(model: Mapping[str, Any], given: Mapping[str, Any], num_classes: int) -> str:
    """Returns the call that builds torchvision's network that computes the same, for people.

    Args:
      model: config.model. given: the fields of `workdir.INPUT`.

    Raises:
      UserError: torchvision has none.
    """
    name, problems = model["name"], []
    own = pretrained.structure(name, model)
    for theirs, (ours, fields) in torchvision_weights.NETWORKS.items():
        if ours != name:
            continue
        wanted = pretrained.structure(name, fields | ({"auxiliary": own["auxiliary"]} if "auxiliary" in own else {}))
        size = {"image_size": (224, 224)} if own["head"] == "fc" else {}  # linear layers fix it
        differing = [f"{field} {own[field]!r}, there {wanted[field]!r}" for field in own if own[field] != wanted[field]]
        differing += [
            f"{field} {tuple(given[field])}, there {v}" for field, v in size.items() if tuple(given[field]) != v
        ]
        if not differing:
            options = f"num_classes={num_classes}"
            if name == "googlenet":
                options += f", aux_logits={own['auxiliary']}, init_weights=False"
            channels = given["channels"]
            first = "" if channels == 3 else f", its first convolution replaced by one of {channels} channels,"
            return f"torchvision.models.{theirs}({options}){first} takes it by load_state_dict"
        problems.append(f"  {theirs}: {', '.join(differing)}")
    known = ", ".join(sorted({ours for ours, _ in torchvision_weights.NETWORKS.values()}))
    raise UserError(
        f"torchvision has no {name}: it has {known}"
        if not problems
        else f"torchvision has no {name} with these fields:\n" + "\n".join(problems)
    )


def write_function(source: pretrained.Pretrained, path: Path) -> str:
    """Writes the function from images to probabilities; returns how to use it.

    It uses XLA's own operations, whatever computer it is exported on.

    Raises:
      StorageError: the file cannot be written.
    """
    graphdef, state = nnx.split(predictor.build(source))
    mean, std = (np.asarray(source.input[name], np.float32) for name in ("mean", "std"))

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(nnx.merge(graphdef, state)(augment.normalize(images, mean, std)))

    sizes = (*source.input["image_size"], source.input["channels"])
    images = jax.ShapeDtypeStruct(
        export.symbolic_shape(", ".join(["b", *map(str, sizes)])), jnp.uint8 if len(sizes) > 2 else jnp.float32
    )
    exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    with written(path) as partial:
        partial.write_bytes(exported.serialize())
    return f"jax.export.deserialize(...).call(images) takes {images.dtype} {list(images.shape)}, any b"
