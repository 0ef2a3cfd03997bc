"""Draws pictures of what a network sees.

python -m cnn_jax.visualize data --config=configs/resnet20.py:cifar10
python -m cnn_jax.visualize data --config=configs/resnet50.py:folder --config.data.dir=photos --output=photos.png

data: examples of the train part, one in each row: as the test sees it, then as training does in the first epochs.
"""

from pathlib import Path
from typing import Any

from absl import flags

from cnn_jax import commandline
from cnn_jax.commandline import launch, needed_config
from cnn_jax.errors import StorageError, check, check_choice

# jax is imported by the functions, so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_OUTPUT = flags.DEFINE_string("output", None, "PNG file to draw in. Default: augmented.png.")

EXAMPLES, EPOCHS = 6, 5  # rows, and columns beside the first


def data(config: Any, path: Path) -> str:
    """Draws the first examples of a run in `path` and returns what the picture shows.

    Raises:
      UserError: an impossible value, a data set that is not there or has no images.
    """
    import numpy as np

    from cnn_jax import plots
    from cnn_jax.config import check_config
    from cnn_jax.data import augment
    from cnn_jax.data.pipeline import Data

    check_config(config)
    given = config.data
    check(len(given.image_size) == 2, f"the examples of {given.name!r} are no images, which alone are augmented")
    opened = Data(given, config.seed)
    part = opened.parts["train"]
    size = len(part)
    count = min(EXAMPLES, size)
    chosen = part.order.indices(np.arange(count))
    examples = part.source.read(chosen.tolist())
    for index, example in zip(chosen, examples, strict=True):
        check(example is not None, f"example {index} of the train part cannot be read: leave config.data.on_error out")
    tested = [augment.crop(example["image"], given, train=False) for example in examples if example]

    # Where each of them stands in every epoch.
    epochs = [np.arange(epoch * size, (epoch + 1) * size) for epoch in range(EPOCHS)]
    positions = np.stack([epoch[np.argsort(part.order.indices(epoch))[chosen]] for epoch in epochs], axis=1)
    images, labels, shares = as_trained(config, part, positions.ravel())
    names = opened.class_names
    captions = [
        "" if share == 1 else f"{share:.0%} {names[own]}, {1 - share:.0%} {names[other]}"
        for (own, other), share in zip(labels, shares, strict=True)
    ]
    sides = f" {tuple(given.train_resize)}" if given.train_crop in ("random", "random_central") else ""
    title = f"{opened.name}: {', '.join([f'train_crop {given.train_crop}{sides}', *given.augment])}"
    plots.plot_images(
        [[first, *images[i * EPOCHS : (i + 1) * EPOCHS]] for i, first in enumerate(tested)],
        path,
        title=title,
        columns=["as tested", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))],
        names=[names[labels[i * EPOCHS][0]] for i in range(count)],
        captions=[["", *captions[i * EPOCHS : (i + 1) * EPOCHS]] for i in range(count)],
    )
    return f"{path}: {count} examples of {title}"


def as_trained(config: Any, part: Any, positions: Any) -> tuple[Any, Any, Any]:
    """Returns training examples as the network sees them, before normalisation.

    Args:
      part: the train part. positions: in the run, int [N].

    Returns:
      (images uint8 [N, H, W, C], labels int [N, 2]: the own one and that of the partner that it is mixed with, the
      share of the own one [N]).
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cnn_jax import step
    from cnn_jax.data import augment, mixing

    # Each behind its partner, which mixing expects there: in a run the one before it in its micro-batch.
    slots = positions % config.batch_size
    partners = positions - slots + (slots - config.accumulation) % config.batch_size
    pairs = np.stack([partners, positions], axis=1).ravel()
    read = [batch for position in pairs for batch in part.train_batches(position, position + 1, 1)]
    read = [step.gather(batch, part.resident) for batch in read]
    images, labels = (np.concatenate([batch[name] for batch in read]) for name in ("image", "label"))

    @jax.jit
    def augmented(images: jax.Array, positions: jax.Array) -> Any:
        key = step.make_keys(jnp.uint32(config.seed), jnp.int32(0)).augmentation  # the same in all steps
        images = augment.augment(key, images, positions, config.data.augment)
        return mixing.mix(key, images, positions, config.data.augment)

    seen, shares = augmented(images, pairs.astype(np.uint32))
    shares = np.ones(len(pairs)) if shares is None else np.asarray(shares)
    pixels = np.round(255 * augment.values(seen[1::2])).astype(np.uint8)
    return pixels, labels.reshape(-1, 2)[:, ::-1], shares[1::2]


PICTURES = {"data": (data, "augmented.png")}


def start(operands: list[str]) -> None:
    """Runs what the command line says."""
    check(len(operands) == 1, f"name one picture to draw: {', '.join(PICTURES)}")
    check_choice("the picture to draw", operands[0], PICTURES)
    draw, default = PICTURES[operands[0]]
    path = Path(_OUTPUT.value or default)
    check(path.suffix == ".png", f"--output is {str(path)!r}, but must be a file that ends in .png")
    config = needed_config()
    from cnn_jax import compilation_cache

    compilation_cache.enable()
    try:
        print(draw(config, path))
    except OSError as error:
        raise StorageError(f"--output: {str(path)!r} cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    launch(start, operands=True)
