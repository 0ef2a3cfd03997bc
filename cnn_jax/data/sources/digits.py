"""scikit-learn's 1,797 handwritten digits of 8x8 pixels, which are bundled."""

import re
from typing import Any

import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.data.dataset import PARTS, ArraySource, Dataset


def open_dataset(config: Any, seed: int) -> Dataset:
    arrays = scans(config)
    parts = {part: ArraySource(*arrays[part]) for part in PARTS}
    return Dataset("digits", parts, [str(digit) for digit in range(10)], "scikit-learn's handwritten digits")


def scans(config: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {part: (images uint8 [N, 8, 8, 1], labels int [N])} of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    images = images.repeat(3, axis=-1) if config.channels == 3 else images  # grey, for a network of color pictures
    # A fixed shuffle, so that every part has every class; the split does not depend on the run's seed.
    order = np.random.Generator(np.random.Philox(key=[1797, 0])).permutation(len(images))
    images, labels = images[order], bunch.target[order]
    written = [config[part] for part in PARTS]
    shares = [float(share[:-1]) / 100 for share in written if re.fullmatch(r"\d+(\.\d+)?%", share)]
    check(
        len(shares) == len(PARTS) and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9,
        f"config.data.train, validation and test are {written}, but of the digits they must be shares above zero "
        "that add up to 100%, such as 70%, 10%, 20%",
    )
    ends = [0, *(round(len(images) * share) for share in np.cumsum(shares))]
    return {
        part: (images[start:end], labels[start:end])
        for part, start, end in zip(PARTS, ends[:-1], ends[1:], strict=True)
    }
