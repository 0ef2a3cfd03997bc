"""Writes small data sets as TFDS prepares them, in the array_record format, without TensorFlow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def prepare(
    folder: Path,
    data_set: str,
    version: str,
    picture: Callable[[str, int], np.ndarray],  # (split, number) -> uint8 [H, W, C]
    *,
    splits: dict[str, int],  # how many examples each has
    shape: tuple[int | None, int | None, int],
    num_classes: int,
    file_type: str = "png",
) -> Path:
    """Prepares `data_set`/`version` below the returned data_dir; example i has the label i % num_classes.

    TFDS copies an image file as it is: that is why no TensorFlow is needed.
    """
    import tensorflow_datasets as tfds

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)

    with tfds.core.registered.skip_registration():

        class Prepared(tfds.core.GeneratorBasedBuilder):
            name = data_set
            VERSION = tfds.core.Version(version)

            def _info(self):
                image = tfds.features.Image(shape=shape, encoding_format=file_type)
                label = tfds.features.ClassLabel(num_classes=num_classes)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split, count) for split, count in splits.items()}

            def _generate_examples(self, split, count):
                for i in range(count):
                    path = pictures / f"{split}{i}.{file_type}"
                    pixels = picture(split, i)
                    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
                    yield i, {"image": str(path), "label": i % num_classes}

    builder = Prepared(data_dir=str(folder / "data"), file_format="array_record")
    builder.download_and_prepare()
    return folder / "data"
