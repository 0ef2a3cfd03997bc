"""Writes a trained network to one file, or pushes it to the Hugging Face Hub, for use elsewhere.

    cnn_jax export --checkpoint=runs/mine@best --output=mine.safetensors
    cnn_jax export --checkpoint=runs/mine --output=mine.safetensors --names=torchvision
    cnn_jax export --checkpoint=runs/mine --output=mine.stablehlo
    cnn_jax export --checkpoint=runs/mine --output=mine.onnx
    cnn_jax export --checkpoint=runs/mine@best --output=hub:OWNER/NAME

A .safetensors holds the weights, and in its header the network, its normalization and the names of its classes: it is
a SOURCE itself. A .stablehlo holds the whole computation, with normalization and weights, for CPUs, GPUs and TPUs:

    images [b, *image_size, C], uint8 (sequences: float32), any b -> class probabilities [b, K], float32

    function = jax.export.deserialize(bytearray(Path("mine.stablehlo").read_bytes()))
    probabilities = function.call(images)

A .onnx holds the same function for onnxruntime and others; it needs the library onnx.

hub:OWNER/NAME is a repository of the Hub, made if it is not there: it gets the .safetensors, config.json and README.md,
the model card, from what the run recorded. The license is yours to name, in the first lines of the card.
"""

import sys
from collections.abc import Sequence

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check


def define(flags: cli.Flags) -> None:
    DEFINE_string("checkpoint", None, f"SOURCE: the trained network: {cli.SOURCES}.", flag_values=flags)
    DEFINE_string("output", None, "FILE.safetensors, .stablehlo or .onnx, or hub:OWNER/NAME.", flag_values=flags)
    DEFINE_enum(
        "names", "ours", ["ours", "torchvision"], "Whose names the arrays in a .safetensors have.", flag_values=flags
    )
    DEFINE_bool("overwrite", False, "Replace what is there.", flag_values=flags)
    DEFINE_bool("private", False, "Make a new repository on the Hub private.", flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    cli.check_no_words(words)
    check(bool(flags.checkpoint), "name the trained network: --checkpoint=SOURCE")
    check(bool(flags.output), "name the file to write: --output=FILE.safetensors, .stablehlo, .onnx or hub:OWNER/NAME")
    from cnn_jax.pretrained import exporting

    exporting.write(flags.checkpoint, flags.output, names=flags.names, overwrite=flags.overwrite, private=flags.private)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax export --checkpoint=SOURCE --output=FILE|hub:OWNER/NAME [flags]")


if __name__ == "__main__":
    sys.exit(main())
