"""One table of data sets: where the images come from, their parts, sizes, statistics, augmentation and evaluation."""

import difflib

from ml_collections import ConfigDict

# Every field of config.data with its default; a row of DATASETS names what differs.
FIELDS = dict(
    # "tfds" (any classification set prepared by TFDS), "folder" (of class folders of pictures), "digits"
    # (scikit-learn's), "xo", "sequences" or "moving_digits" (drawn: cnn_jax/data/generated.py), or "synthetic" (noise).
    source="tfds",
    # Of prepared TFDS data sets (empty: the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets), or of a folder.
    dir="",
    num_classes=10,  # 0: as many as the folder has
    # (height, width) that the network sees, pixels; (length,) of sequences; (time, height, width) of clips. Images of
    # "tfds" and "digits" are resized to it, all other examples are drawn in it.
    image_size=(32, 32),
    channels=3,
    # Three parts. Decisions (best checkpoint, plateau) look at validation, the test part is touched at the end.
    train="train",
    validation="validation",
    test="test",
    train_on="train",  # or "train+validation": the final run of a recipe; no decisions are possible then
    placement="device",  # "device": all images in the accelerator's memory; "stream": read while training
    workers=8,  # threads that read and decode a stream
    prefetch=2,  # batches of a stream that they are ahead
    timeout=600.0,  # seconds to wait for them before the run ends: storage that does not answer
    # "raise": an example that cannot be read ends the run; "skip" (of a folder): the next one of its batch takes its
    # place in training, an evaluation leaves it out, and both count it.
    on_error="raise",
    # Host side: from the stored image to image_size. "resize" stretches (bilinear).
    train_crop="resize",  # or "random_resized": a random part, 8-100% of the area, aspect 3/4-4/3 (GoogLeNet)
    scaled_decoding=False,  # of JPEGs in a folder, in training only: at 1/2, 1/4 or 1/8 where the crop needs no more
    test_crop="resize",  # or "center": shorter side to test_resize, then the centre of image_size
    test_resize=256,  # pixels
    # Device side, inside the step, in this order.
    augment=(),  # images only: "pad_crop:N" (zero padding of N pixels, random crop) and "flip" (horizontal)
    normalize="channel",  # (x - mean) / std of each channel; "pixel": minus the mean image; "none": x in [0, 1]
    mean=(),  # per channel, of images in [0, 1]; empty: measured on the training part
    std=(),
    num_images=(),  # synthetic and drawn data only: examples in (train, validation, test)
    # How far drawn data vary; each is the largest change, drawn uniformly, and 0 is none.
    noise=0.0,  # xo, sequences, moving_digits: of every value, either way; 1 is all of the ink, or the highest motif
    shift=0.0,  # xo: of the place, either way along both axes, pixels of a 9x9 image
    rotation=0.0,  # xo: degrees, either way
    scale=0.0,  # xo: of the size, a share that it shrinks by, below 1
    thickness=0.0,  # xo: of half the stroke's weight, upwards, pixels of a 9x9 image
    drift=0.0,  # sequences: of the slope and of the bend of the base line, either way
)

IMAGENET_STATISTICS = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = dict(train="train[:45000]", validation="train[45000:]", augment=("pad_crop:4", "flip"))
MNIST = dict(train="train[:55000]", validation="train[55000:]", image_size=(28, 28), channels=1)

DATASETS = {
    # 1,797 grey 8x8 digits of the UCI set that come with scikit-learn: 1,258 / 180 / 359.
    "digits": dict(source="digits", image_size=(8, 8), channels=1, train="70%", validation="10%", test="20%"),
    # White X's and O's on black, 9x9; the lecture's values: white is 1, black -1.
    "xo": dict(
        source="xo",
        num_classes=2,
        image_size=(9, 9),
        channels=1,
        num_images=(4000, 1000, 1000),
        mean=(0.5,),
        std=(0.5,),
        noise=0.3,
        shift=2.0,
        rotation=30.0,
        scale=0.5,
        thickness=0.5,
    ),
    # One of 10 short motifs somewhere in a noisy sequence.
    "sequences": dict(
        source="sequences", image_size=(128,), channels=1, num_images=(4000, 1000, 1000), noise=0.3, drift=0.5
    ),
    # Digits that move over a canvas without borders; the class is the digit and the direction. 40: right, left, down,
    # up; 80: the diagonals, too. The parts have scans of their own, in shares as those of the digits.
    "moving_digits": dict(
        source="moving_digits",
        num_classes=40,
        image_size=(16, 16, 16),
        channels=1,
        train="70%",
        validation="10%",
        test="20%",
        num_images=(20000, 800, 2000),
        noise=0.1,
    ),
    # Noise with random labels: for measuring speed. Nothing can be learnt from it.
    "synthetic": dict(source="synthetic", num_images=(2048, 256, 256), normalize="none"),
    "mnist": MNIST,
    "fashion_mnist": MNIST,
    "cifar10": CIFAR,
    "cifar100": CIFAR | dict(num_classes=100),
    # Pictures in DIR/train/CLASS/ and DIR/val/CLASS/; for DIR/CLASS/ give shares: train=70%, validation=10%, test=20%.
    "folder": dict(
        source="folder",
        num_classes=0,
        image_size=(224, 224),
        train="train[:90%]",
        validation="train[90%:]",
        test="val",
        placement="stream",
        train_crop="random_resized",
        test_crop="center",
        augment=("flip",),
        **IMAGENET_STATISTICS,
    ),
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
