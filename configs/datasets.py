"""One table of data sets: where the images come from, their parts, sizes, statistics, augmentation and evaluation."""

import difflib

from ml_collections import ConfigDict

# Every field of config.data with its default; a row of DATASETS names what differs.
FIELDS = dict(
    source="tfds",  # "digits" (scikit-learn's), "synthetic", or "tfds" (any classification set prepared by TFDS)
    dir="",  # of prepared TFDS data sets; empty: the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets
    num_classes=10,
    image_size=(32, 32),  # height, width that the network sees, pixels
    channels=3,
    # Three parts. Decisions (best checkpoint, plateau) look at validation, the test part is touched at the end.
    train="train",
    validation="validation",
    test="test",
    train_on="train",  # or "train+validation": the final run of a recipe; no decisions are possible then
    placement="device",  # "device": all images in the accelerator's memory; "stream": read while training
    workers=8,  # threads that read and decode a stream
    # Host side: from the stored image to image_size. "resize" stretches (bilinear).
    train_crop="resize",  # or "random_resized": a random part, 8-100% of the area, aspect 3/4-4/3 (GoogLeNet)
    test_crop="resize",  # or "center": shorter side to test_resize, then the centre of image_size
    test_resize=256,  # pixels
    # Device side, inside the step, in this order.
    augment=(),  # of "pad_crop:N" (zero padding of N pixels, random crop) and "flip" (horizontal)
    normalize="channel",  # (x - mean) / std of each channel; "pixel": minus the mean image; "none": x in [0, 1]
    mean=(),  # per channel, of images in [0, 1]; empty: measured on the training part
    std=(),
    num_images=(),  # synthetic only: images in (train, validation, test)
)

IMAGENET_STATISTICS = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = dict(train="train[:45000]", validation="train[45000:]", augment=("pad_crop:4", "flip"))
MNIST = dict(train="train[:55000]", validation="train[55000:]", image_size=(28, 28), channels=1)

DATASETS = {
    # 1,797 grey 8x8 digits of the UCI set that come with scikit-learn: 1,258 / 180 / 359.
    "digits": dict(source="digits", image_size=(8, 8), channels=1, train="70%", validation="10%", test="20%"),
    # Noise with random labels: for measuring speed. Nothing can be learnt from it.
    "synthetic": dict(source="synthetic", num_images=(2048, 256, 256), normalize="none"),
    "mnist": MNIST,
    "fashion_mnist": MNIST,
    "cifar10": CIFAR,
    "cifar100": CIFAR | dict(num_classes=100),
    # The test labels of ImageNet are not public: as everywhere, its 50,000 validation images are the test part here,
    # and the last 1% of the training images serve for validation.
    "imagenet2012": dict(
        num_classes=1000,
        image_size=(224, 224),
        train="train[:99%]",
        validation="train[99%:]",
        test="validation",
        placement="stream",
        train_crop="random_resized",
        test_crop="center",
        augment=("flip",),
        **IMAGENET_STATISTICS,
    ),
}


def get_dataset(name: str) -> ConfigDict:
    """Returns config.data for the data set called `name`; raises ValueError, with the near match, for another."""
    if name not in DATASETS:
        match = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
        hint = f"; did you mean {match[0]!r}?" if match else ""
        raise ValueError(f"no data set is called {name!r}{hint} Known: {', '.join(DATASETS)}")
    return ConfigDict(dict(name=name) | FIELDS | DATASETS[name])
