"""Draws one picture: of training examples, or of what is inside a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn_jax.analysis import attribution
from cnn_jax.core import compilation_cache
from cnn_jax.core.errors import StorageError, check
from cnn_jax.pretrained import predictor
from cnn_jax.visualization import pictures, visualize_data, visualize_network
from cnn_jax.visualization.visualize_network import DrawOptions

# How many examples of a data set each picture uses by default; filters uses none.
EXAMPLES = {
    "filters": 0,
    "features": 1,
    "cam": 4,
    **dict.fromkeys(attribution.NAMES, 4),
    "deconv": 1000,
    "embedding": 1000,
}


def draw(
    picture: str,
    path: Path,
    *,
    source: str | None,
    config: Any,
    files: Sequence[str],
    numbers: Sequence[str] | None,
    options: DrawOptions,
) -> None:
    """Draws a picture in `path`, a .png, and prints what it shows.

    Args:
      picture: "data", or one of `EXAMPLES`. source: the SOURCE of the network.
      config: whose data set is shown, or None. files: files and folders of pictures.
      numbers: which test examples of `config` to show, or None for the first ones.

    Raises:
      UserError: no network is named, or pictures are named in no way or in two ways.
      StorageError: `path` cannot be written.
    """
    compilation_cache.enable()
    try:
        if picture == "data":
            shown = visualize_data.data(config, path)
        else:
            shown = network(picture, path, source, config, files, numbers, options)
    except OSError as error:
        raise StorageError(f"--output: {str(path)!r} cannot be written: {error.strerror or error}") from None
    print(f"{path}: {shown}")


def network(
    picture: str,
    path: Path,
    source: str | None,
    config: Any,
    files: Sequence[str],
    numbers: Sequence[str] | None,
    options: DrawOptions,
) -> str:
    """Draws the inside of a network and returns what the picture shows; arguments as in `draw`."""
    check(source is not None, "name the trained network: --checkpoint=SOURCE, such as --checkpoint=runs/mine")
    default = EXAMPLES[picture]
    if default:
        check(
            bool(files) != (config is not None),
            f"{picture} needs pictures, from one place: name files or folders, or give --config=RECIPE for the test "
            "examples of its data set",
        )
    else:
        check(not files and config is None, f"{picture} takes no pictures: leave {list(files) or '--config'} out")
    check(numbers is None or config is not None, "--examples are those of a data set: give --config=RECIPE")
    check(
        numbers is None or all(number.isdecimal() for number in numbers),
        f"--examples is {','.join(numbers or ())!r}, but must be whole numbers with commas, such as 0,7,12",
    )
    loaded = predictor.load(str(source))
    pictures.check_images(loaded)
    shown = None
    if files:
        shown = pictures.from_files(loaded, files)
    elif config is not None:
        wanted = None if numbers is None else [int(number) for number in numbers]
        shown = pictures.from_data(loaded, config, wanted, default)
    return getattr(visualize_network, picture)(loaded, shown, options, path)
