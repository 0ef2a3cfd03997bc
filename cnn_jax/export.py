"""Writes a trained network to one file, for use elsewhere.

    python -m cnn_jax.export --checkpoint=runs/mine@best --output=mine.safetensors
    python -m cnn_jax.export --checkpoint=runs/mine --output=mine.safetensors --names=torchvision
    python -m cnn_jax.export --checkpoint=runs/mine --output=mine.stablehlo

A .safetensors holds the weights, and in its header the network, its normalisation and the names of its classes: it is
a SOURCE itself. A .stablehlo holds the whole computation, with normalisation and weights, for CPUs, GPUs and TPUs:

    images [b, *image_size, C], uint8 (sequences: float32), any b -> class probabilities [b, K], float32

    function = jax.export.deserialize(bytearray(Path("mine.stablehlo").read_bytes()))
    probabilities = function.call(images)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax.core import files
from cnn_jax.core.errors import UserError, check

# jax is imported by what needs it, so that --help answers at once.

SUFFIXES = (".safetensors", ".stablehlo")
NAMES = ("ours", "torchvision")
PLATFORMS = ("cpu", "cuda", "tpu")  # that a .stablehlo runs on


def check_output(path: Path, *, names: str, overwrite: bool) -> None:
    """Raises UserError unless `path` can be the file to write."""
    check(path.suffix in SUFFIXES, f"--output={path} must end in {' or '.join(SUFFIXES)}")
    check(path.parent.is_dir(), f"--output={path}: there is no folder {str(path.parent)!r}")
    check(not path.is_dir(), f"--output={path} is a folder: name a file in it")
    check(not path.exists() or overwrite, f"--output={path} is there already: name another, or add --overwrite")
    check(
        path.suffix == ".safetensors" or names == NAMES[0],
        f"--names={names} is about the arrays in a .safetensors: a .stablehlo has no names",
    )


def write_weights(source: Any, path: Path, *, names: str = "ours") -> str:
    """Writes the weights of a `pretrained.Pretrained` as .safetensors; returns how to use them, for people.

    Raises:
      UserError: for names="torchvision": it has no such network; the message lists what differs.
      StorageError: the file cannot be written.
    """
    from cnn_jax.pretrained import source as pretrained
    from cnn_jax.pretrained import torchvision as foreign_weights
    from cnn_jax.pretrained import trained

    arrays, use = source.leaves, f"cnn_jax.load({str(path)!r}) takes it"
    if names == "torchvision":
        use = torchvision_call(source.model, source.input, source.num_classes)
        arrays = foreign_weights.export(trained.build(source))
    pretrained.save(path, arrays, model=source.model, given=source.input, names=names)
    return use


def torchvision_call(model: Mapping[str, Any], given: Mapping[str, Any], num_classes: int) -> str:
    """Returns the call that builds torchvision's network of the same function, for people.

    Args:
      model: config.model. given: the fields of `run_folder.INPUT`.

    Raises:
      UserError: torchvision has none.
    """
    from cnn_jax.pretrained import source as pretrained
    from cnn_jax.pretrained import torchvision as foreign_weights

    name, problems = model["name"], []
    own = pretrained.structure(name, model)
    for theirs, (ours, fields) in foreign_weights.NETWORKS.items():
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
    known = ", ".join(sorted({ours for ours, _ in foreign_weights.NETWORKS.values()}))
    raise UserError(
        f"torchvision has no {name}: it has {known}"
        if not problems
        else f"torchvision has no {name} with these fields:\n" + "\n".join(problems)
    )


def write_function(source: Any, path: Path) -> str:
    """Writes the function of a `pretrained.Pretrained` from images to probabilities; returns how to use it.

    It has XLA's own operations, on whatever computer it is exported.

    Raises:
      StorageError: the file cannot be written.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax import export

    from cnn_jax.data import augment
    from cnn_jax.pretrained import trained

    graphdef, state = nnx.split(trained.build(source))
    mean, std = (np.asarray(source.input[name], np.float32) for name in ("mean", "std"))

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(nnx.merge(graphdef, state)(augment.normalize(images, mean, std)))

    sizes = (*source.input["image_size"], source.input["channels"])
    images = jax.ShapeDtypeStruct(
        export.symbolic_shape(", ".join(["b", *map(str, sizes)])), jnp.uint8 if len(sizes) > 2 else jnp.float32
    )
    exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    with files.written(path) as partial:
        partial.write_bytes(exported.serialize())
    return f"jax.export.deserialize(...).call(images) takes {images.dtype} {list(images.shape)}, any b"


if __name__ == "__main__":
    from absl import flags

    from cnn_jax.config import commandline

    _CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The trained network: {commandline.SOURCES}.")
    _OUTPUT = flags.DEFINE_string("output", None, "The file to write; its name ends in .safetensors or .stablehlo.")
    _NAMES = flags.DEFINE_enum("names", "ours", NAMES, "Whose names the arrays in a .safetensors have.")
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a file that is there.")

    def start() -> None:
        """Runs what the flags say."""
        check(commandline.given_config() is None, "--config goes with training: --checkpoint says which network it is")
        checkpoint, output = _CHECKPOINT.value or "", _OUTPUT.value or ""
        check(bool(checkpoint), "name the trained network: --checkpoint=SOURCE")
        check(bool(output), "name the file to write: --output=FILE.safetensors or --output=FILE.stablehlo")
        path = Path(output)
        check_output(path, names=_NAMES.value, overwrite=_OVERWRITE.value)
        from rich.console import Console

        from cnn_jax.display import terminal
        from cnn_jax.pretrained import source as pretrained

        console = Console()
        with terminal.waiting(console, "reading the trained network"):
            source = pretrained.open_source(checkpoint)
        terminal.say(console, source.description)
        with terminal.waiting(console, f"writing {path}"):
            if path.suffix == ".stablehlo":
                use = write_function(source, path)
            else:
                use = write_weights(source, path, names=_NAMES.value)
        terminal.say(console, f"{path}: {path.stat().st_size:,} bytes; {use}")

    commandline.launch(start)
