"""Draws pictures of what a network sees.

    cnn_jax visualize data --config=resnet20:cifar10
    cnn_jax visualize data --config=resnet50:folder --config.data.dir=photos --output=photos.png
    cnn_jax visualize filters --checkpoint=runs/mine
    cnn_jax visualize features --checkpoint=runs/mine --layer=conv2 cat.jpg
    cnn_jax visualize cam --checkpoint=runs/mine@best --class=cat --class=dog photos/a.jpg photos/b.jpg
    cnn_jax visualize deconv --checkpoint=runs/mine --layer=conv3 photos
    cnn_jax visualize embedding --checkpoint=runs/mine --method=pca --config=lenet5:mnist

  data       examples of the train part, one in each row: as the test sees it, then as training does in the first epochs
  filters    the kernels of the first convolution
  features   the strongest maps of a layer for one picture; the first layer's, if none is named
  cam        which parts of pictures speak for a class: class activation maps of a head that averages, else Grad-CAM
  saliency, integrated_gradients, smoothgrad, occlusion
             which pixels a class's score depends on: the gradient, the gradient summed on the way from black, the mean
             gradient of noisy pictures, how far the score falls where a black square hides
  deconv     what caused the strongest activations of a layer's maps, by a deconvolutional network
  embedding  what the last layer sees of pictures, in two dimensions

All but the first two take pictures: files, folders, or the test examples of the data set of --config.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_integer, DEFINE_list, DEFINE_multi_string, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check, check_choice

ATTRIBUTIONS = ("saliency", "integrated_gradients", "smoothgrad", "occlusion")
PICTURES = ("data", "filters", "features", "cam", *ATTRIBUTIONS, "deconv", "embedding")
# flag -> the pictures that it is for
USED = {
    "checkpoint": PICTURES[1:],
    "examples": ("features", "cam", *ATTRIBUTIONS, "deconv", "embedding"),
    "layer": ("features", "cam", "deconv"),
    "class": ("cam", *ATTRIBUTIONS),
    "maps": ("features", "deconv"),
    "method": ("embedding",),
    "thumbnails": ("embedding",),
}


def define(flags: cli.Flags) -> None:
    cli.define_config(flags)
    DEFINE_string("checkpoint", None, f"SOURCE: the trained network: {cli.SOURCES}.", flag_values=flags)
    DEFINE_string(
        "output", None, "FILE: PNG to draw in. Default: PICTURE.png, of data augmented.png.", flag_values=flags
    )
    DEFINE_list("examples", None, "N,N,...: the test examples of --config to take.", flag_values=flags)
    DEFINE_string("layer", None, "LAYER: features, cam, deconv: whose maps are shown.", flag_values=flags)
    DEFINE_multi_string(
        "class",
        [],
        "NAME: cam, saliency and the like: a class to show; may be repeated. Default: the likeliest 3.",
        flag_values=flags,
    )
    DEFINE_integer(
        "maps",
        None,
        "features, deconv: how many maps are shown. Default: 24, 8.",
        lower_bound=1,
        flag_values=flags,
    )
    DEFINE_enum("method", "tsne", ["tsne", "pca"], "embedding: how it gets two dimensions.", flag_values=flags)
    DEFINE_bool("thumbnails", False, "embedding: draw the pictures instead of points.", flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    check(len(words) > 0, f"name one picture to draw: {', '.join(PICTURES)}")
    picture, *files = words
    check_choice("the picture to draw", picture, PICTURES)
    for flag, users in USED.items():
        unused = flags[flag].present and picture not in users
        check(not unused, f"--{flag} is for {', '.join(users)}, and not for {picture}: leave it out")
    path = Path(flags.output or ("augmented.png" if picture == "data" else f"{picture}.png"))
    check(path.suffix == ".png", f"--output is {str(path)!r}, but must be a file that ends in .png")
    is_data = picture == "data"
    check(not (is_data and files), "name one picture to draw: data takes no more, its examples are those of --config")
    configuration = cli.needed(flags) if is_data else cli.given(flags)
    from cnn_jax.visualization import drawing

    drawing.draw(
        picture,
        path,
        source=flags.checkpoint,
        config=configuration.config if configuration else None,
        files=files,
        numbers=flags.examples,
        options=drawing.DrawOptions(
            layer=flags.layer,
            classes=flags["class"].value,
            maps=flags.maps or 0,
            method=flags.method,
            thumbnails=flags.thumbnails,
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax visualize WHAT [PICTURES...] [flags]")


if __name__ == "__main__":
    sys.exit(main())
