"""Writes a trained network for use elsewhere: its weights or its whole function into a file, or onto the Hub."""

import json
import tempfile
from collections.abc import Callable, Mapping
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
from cnn_jax.pretrained import hub, model_card, onnx_writer, predictor, torchvision_weights
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.source import NAMES

SUFFIXES = (".safetensors", ".stablehlo", ".onnx")
PLATFORMS = ("cpu", "cuda", "tpu")  # the platforms that a .stablehlo runs on


def write(checkpoint: str, output: str, *, names: str, overwrite: bool, private: bool) -> None:
    """Writes the trained network of a SOURCE to a file or onto the Hub, and prints what it is and how to use it.

    Args:
      output: a file that ends in one of `SUFFIXES`, or hub:OWNER/NAME. names, overwrite: see `check_output` and
        `write_weights`. private: see `hub.push`.
    """
    if output.startswith(hub.PREFIX):
        push(checkpoint, output, names=names, overwrite=overwrite, private=private)
        return
    check(not private, f"--private is about a repository of the Hub, but --output is {output!r}")
    path = Path(output)
    check_output(path, names=names, overwrite=overwrite)
    console = Console()
    with terminal.waiting(console, "reading the trained network"):
        source = pretrained.open_source(checkpoint)
    terminal.say(console, source.description)
    with terminal.waiting(console, f"writing {path}"):
        if path.suffix == ".safetensors":
            use = write_weights(source, path, names=names)
        else:
            use = write_function(source, path) if path.suffix == ".stablehlo" else write_onnx(source, path)
    terminal.say(console, f"{path}: {path.stat().st_size:,} bytes; {use}")


def push(checkpoint: str, target: str, *, names: str, overwrite: bool, private: bool) -> None:
    """Pushes the trained network of a SOURCE to hub:OWNER/NAME: weights, config.json and a model card.

    Raises:
      UserError: see `hub.check_target` and `hub.push`.
    """
    console = Console()
    with terminal.waiting(console, f"asking the Hub for {target}"):
        license = hub.check_target(target, overwrite=overwrite)
    with terminal.waiting(console, "reading the trained network"):
        source = pretrained.open_source(checkpoint)
    terminal.say(console, source.description)
    with terminal.waiting(console, f"pushing to {target}"), tempfile.TemporaryDirectory(prefix="cnn_jax-") as scratch:
        folder = Path(scratch)
        write_weights(source, folder / hub.FILES[0], names=names)
        config = json.dumps(model_card.config(source), indent=2) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        (folder / hub.CARD).write_text(model_card.card(source, target, license=license), encoding="utf-8")
        address = hub.push(folder, target, private=private)
    terminal.say(console, f"{address}: cnn_jax.load({target!r}) takes it; {hub.CARD} there is its model card")


def check_output(path: Path, *, names: str, overwrite: bool) -> None:
    """Raises UserError unless `path` can be the file to write."""
    check(path.suffix in SUFFIXES, f"--output={path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    files.check_output(path, "--output")
    check(not path.exists() or overwrite, f"--output={path} is there already: name another, or add --overwrite")
    check(
        path.suffix == ".safetensors" or names == NAMES[0],
        f"--names={names} is about the arrays in a .safetensors: a {path.suffix} has no names",
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
    sizes = (*source.input["image_size"], source.input["channels"])
    images = jax.ShapeDtypeStruct(export.symbolic_shape(", ".join(["b", *map(str, sizes)])), _dtype(source))
    exported = export.export(jax.jit(probabilities(source)), platforms=PLATFORMS)(images)
    with written(path) as partial:
        partial.write_bytes(exported.serialize())
    return f"jax.export.deserialize(...).call(images) takes {images.dtype} {list(images.shape)}, any b"


def write_onnx(source: pretrained.Pretrained, path: Path) -> str:
    """Writes the function from images to probabilities as ONNX, with the names of classes; returns how to use it.

    Raises:
      UserError: onnx is not installed, or the network has an operation that `onnx_writer` does not write.
      StorageError: the file cannot be written.
    """
    images = jax.ShapeDtypeStruct((*source.input["image_size"], source.input["channels"]), _dtype(source))
    model = onnx_writer.to_onnx(probabilities(source), images, names=("images", "probabilities"))
    if source.classes:
        classes = model.metadata_props.add()
        classes.key, classes.value = "classes", json.dumps(source.classes)
    with written(path) as partial:
        partial.write_bytes(model.SerializeToString())
    sizes = ", ".join(map(str, ("b", *images.shape)))
    return f"onnxruntime.InferenceSession({str(path)!r}) takes images, {images.dtype} [{sizes}], any b"


def probabilities(source: pretrained.Pretrained) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from images [B, *image_size, C], as `_dtype` says, to probabilities [B, K], float32."""
    graphdef, state = nnx.split(predictor.build(source))
    mean, std = (np.asarray(source.input[name], np.float32) for name in ("mean", "std"))
    return lambda images: jax.nn.softmax(nnx.merge(graphdef, state)(augment.normalize(images, mean, std)))


def _dtype(source: pretrained.Pretrained) -> Any:
    return jnp.uint8 if len(source.input["image_size"]) > 1 else jnp.float32
