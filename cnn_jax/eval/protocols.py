"""Evaluation protocols by name: which views of a test image the network sees. Their class probabilities are averaged.

single      the view that config.data.test_crop sets
flip        that view and its mirror image
10-crop     of the central square of the resized image the four corners and the center, each with its mirror image
            (Krizhevsky et al. 2012, section 4.1)
144-crop    4 sizes, 3 squares of each, 6 crops of each square, each with its mirror image (Szegedy et al. 2015,
            section 7)
dense       the image, its longer side cut to a multiple of 32, and its mirror image at each of config.eval.scales,
            with the network applied at all positions (Simonyan and Zisserman 2015, section 3.2; He et al. 2016, section
            3.4)

Validation during training is always "single". Nothing here imports jax, because reports use this module, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.core.errors import check, check_choice

PROTOCOLS = ("single", "flip", "10-crop", "144-crop", "dense")
GOOGLENET_SCALES = (256, 288, 320, 352)  # pixels of the shorter side, for crops of 224


def is_mirrored(protocol: str) -> bool:
    """Returns whether every view is also seen as its mirror image."""
    return protocol != "single"


def scales(config: Any) -> tuple[int, ...]:
    """Returns the lengths in pixels that an image's shorter side is resized to; `config` is a whole configuration."""
    if config.eval.protocol == "144-crop":
        return GOOGLENET_SCALES
    return tuple(config.eval.scales) or (config.data.test_resize,)


def check_protocol(config: Any) -> None:
    """Raises UserError for a protocol that does not fit the data or the other fields."""
    protocol, data, given = config.eval.protocol, config.data, config.eval.scales
    check_choice("config.eval.protocol", protocol, PROTOCOLS)
    check(
        protocol == "single" or len(data.image_size) == 2,
        f"config.eval.protocol is {protocol!r}, which is for images: leave it at 'single'",
    )
    check(
        protocol in ("single", "flip") or data.placement == "stream",
        f"config.eval.protocol is {protocol!r}, which sees more than the {_size(data.image_size)} pixels that are kept "
        "of an image with config.data.placement='device': set config.data.placement=stream",
    )
    check(
        not given or protocol == "dense",
        f"config.eval.scales is {given}, which is for protocol 'dense', but config.eval.protocol is {protocol!r}",
    )
    check(
        all(isinstance(scale, int) and scale > 0 for scale in given),
        f"config.eval.scales is {given}, but must hold whole numbers of pixels",
    )
    if protocol in ("10-crop", "144-crop", "dense"):
        smallest, largest = min(scales(config)), max(data.image_size)
        check(
            smallest >= largest,
            f"config.eval.protocol is {protocol!r}, whose smallest scale is {smallest} pixels, but the network needs "
            f"{_size(data.image_size)}: set {'config.eval.scales' if given else 'config.data.test_resize'} to at least "
            f"{largest}"
            if protocol != "144-crop"
            else f"config.eval.protocol is '144-crop', whose images begin at {smallest} pixels, but the network needs "
            f"{_size(data.image_size)}",
        )


def describe(config: Mapping[str, Any]) -> str:
    """Returns a description of the views of a test example; `config` has dotted names."""
    protocol, size = config["eval.protocol"], _size(config["data.image_size"])
    resized = config["data.test_resize"]
    single = f"shorter side to {resized}, center crop of {size}" if config["data.test_crop"] == "center" else "whole"
    if protocol == "144-crop":
        return f"144-crop of {size}, shorter side to {', '.join(map(str, GOOGLENET_SCALES))}"
    if protocol == "10-crop":
        return f"10-crop of {size}, shorter side to {resized}"
    if protocol == "dense":
        sides = ", ".join(map(str, config["eval.scales"] or [resized]))
        return f"dense and flipped, shorter side to {sides}, longer side cut to a multiple of 32"
    return f"{single} and flipped" if protocol == "flip" else single


def view(config: Mapping[str, Any]) -> str:
    """Returns the group of protocols whose published results are comparable; see `cnn_jax.reporting.published`."""
    protocol = config["eval.protocol"]
    if protocol == "dense":
        return "multi-scale" if len(config["eval.scales"]) > 1 else "dense"
    if protocol.endswith("-crop"):
        return protocol.replace("-crop", " crops")
    single = "1 crop" if config["data.test_crop"] == "center" else "whole image"
    return f"{single}, flipped" if protocol == "flip" else single


def _size(image_size: Sequence[int]) -> str:
    return "x".join(map(str, image_size))
