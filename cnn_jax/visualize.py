"""Draws pictures of what a network sees.

python -m cnn_jax.visualize data --config=configs/resnet20.py:cifar10
python -m cnn_jax.visualize data --config=configs/resnet50.py:folder --config.data.dir=photos --output=photos.png
python -m cnn_jax.visualize filters --checkpoint=runs/mine
python -m cnn_jax.visualize features --checkpoint=runs/mine --layer=conv2 cat.jpg
python -m cnn_jax.visualize cam --checkpoint=runs/mine@best --class=cat --class=dog photos/a.jpg photos/b.jpg
python -m cnn_jax.visualize deconv --checkpoint=runs/mine --layer=conv3 photos
python -m cnn_jax.visualize embedding --checkpoint=runs/mine --method=pca --config=configs/lenet5.py:mnist

data: examples of the train part, one in each row: as the test sees it, then as training does in the first epochs.
filters: the kernels of the first convolution.
features: the strongest maps of a layer for one picture; the first layer's, if none is named.
cam: which parts of pictures speak for a class: class activation maps of a head that averages, else Grad-CAM.
deconv: what caused the strongest activations of a layer's maps, by a deconvolutional network.
embedding: what the last layer sees of pictures, in two dimensions.

The last four take pictures: files, folders, or the test examples of the data set of --config.
"""

from pathlib import Path

from absl import flags

from cnn_jax.config import commandline
from cnn_jax.config.commandline import SOURCES, given_config, launch, needed_config
from cnn_jax.core.errors import StorageError, UserError, check, check_choice

# jax is imported by the functions, so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_OUTPUT = flags.DEFINE_string("output", None, "PNG file to draw in. Default: PICTURE.png, of data augmented.png.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The trained network: {SOURCES}.")
_LAYER = flags.DEFINE_string("layer", None, "features, cam, deconv: the layer whose maps are shown.")
_CLASS = flags.DEFINE_multi_string("class", [], "cam: a class to show, again for another. Default: the likeliest 3.")
_MAPS = flags.DEFINE_integer("maps", None, "features, deconv: how many maps are shown. Default: 24, 8.", lower_bound=1)
_METHOD = flags.DEFINE_enum("method", "tsne", ["tsne", "pca"], "embedding: how it gets two dimensions.")
_THUMBNAILS = flags.DEFINE_bool("thumbnails", False, "embedding: draw the pictures in the place of points.")
_EXAMPLES = flags.DEFINE_list("examples", None, "Numbers of the test examples of --config to take: 0,7,12.")

# How many examples of a data set each picture takes by default; filters takes none.
NETWORK_PICTURES = {"filters": 0, "features": 1, "cam": 4, "deconv": 1000, "embedding": 1000}
PICTURES = ("data", *NETWORK_PICTURES)
# flag -> the pictures that it is for
USED = {
    "checkpoint": tuple(NETWORK_PICTURES),
    "examples": ("features", "cam", "deconv", "embedding"),
    "layer": ("features", "cam", "deconv"),
    "class": ("cam",),
    "maps": ("features", "deconv"),
    "method": ("embedding",),
    "thumbnails": ("embedding",),
}


def data(operands: list[str], path: Path) -> str:
    """Draws training examples and returns what the picture shows."""
    check(not operands, "name one picture to draw: data takes no more, its examples are those of --config")
    config = needed_config()
    from cnn_jax.core import compilation_cache
    from cnn_jax.visualization import visualize_data

    compilation_cache.enable()
    return visualize_data.data(config, path)


def network(picture: str, operands: list[str], path: Path) -> str:
    """Draws what is inside the network of --checkpoint and returns what the picture shows."""
    source = _CHECKPOINT.value
    if source is None:
        raise UserError("name the trained network: --checkpoint=SOURCE, such as --checkpoint=runs/mine")
    default, config = NETWORK_PICTURES[picture], given_config()
    if default:
        check(
            bool(operands) != (config is not None),
            f"{picture} needs pictures, from one place: name files or folders, or give --config=FILE for the test "
            "examples of its data set",
        )
    else:
        check(not operands and config is None, f"{picture} takes no pictures: leave {operands or '--config'} out")
    numbers = _EXAMPLES.value
    check(numbers is None or config is not None, "--examples are those of a data set: give --config=FILE")
    check(
        numbers is None or all(number.isdecimal() for number in numbers),
        f"--examples is {','.join(numbers or ())!r}, but must be whole numbers with commas, such as 0,7,12",
    )
    from cnn_jax.core import compilation_cache
    from cnn_jax.pretrained import trained
    from cnn_jax.visualization import pictures, visualize_network

    compilation_cache.enable()
    loaded = trained.load(source)
    pictures.check_images(loaded)
    shown = None
    if operands:
        shown = pictures.from_files(loaded, operands)
    elif config is not None:
        wanted = None if numbers is None else [int(number) for number in numbers]
        shown = pictures.from_data(loaded, config, wanted, default)
    options = visualize_network.Options(
        layer=_LAYER.value,
        classes=_CLASS.value,
        maps=_MAPS.value or 0,
        method=_METHOD.value,
        thumbnails=_THUMBNAILS.value,
    )
    return getattr(visualize_network, picture)(loaded, shown, options, path)


def start(operands: list[str]) -> None:
    """Runs what the command line says."""
    check(len(operands) > 0, f"name one picture to draw: {', '.join(PICTURES)}")
    picture, *operands = operands
    check_choice("the picture to draw", picture, PICTURES)
    for flag, users in USED.items():
        unused = flags.FLAGS[flag].present and picture not in users
        check(not unused, f"--{flag} is for {', '.join(users)}, and not for {picture}: leave it out")
    path = Path(_OUTPUT.value or ("augmented.png" if picture == "data" else f"{picture}.png"))
    check(path.suffix == ".png", f"--output is {str(path)!r}, but must be a file that ends in .png")
    try:
        told = data(operands, path) if picture == "data" else network(picture, operands, path)
    except OSError as error:
        raise StorageError(f"--output: {str(path)!r} cannot be written: {error.strerror or error}") from None
    print(f"{path}: {told}")


if __name__ == "__main__":
    launch(start, operands=True)
