"""One table of data sets: where the images come from, their parts, sizes, statistics, augmentation and evaluation."""

import re

from ml_collections import ConfigDict

# Every field of config.data with its default; a row of DATASETS names what differs.
FIELDS = dict(
    # "tfds" (any classification set that TFDS prepares), "folder" (of class folders of pictures), "digits"
    # (scikit-learn's), "xo", "sequences" or "moving_digits" (drawn: cnn_jax/data/generated.py), or "synthetic" (noise).
    source="tfds",
    # Of prepared TFDS data sets (empty: the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets), or of a folder.
    dir="",
    num_classes=10,  # 0: as many as the data set has
    # (height, width) that the network sees, pixels; (length,) of sequences; (time, height, width) of clips. Images of
    # "tfds" and "digits" are resized to it, all other examples are drawn in it.
    image_size=(32, 32),
    channels=3,
    # Three parts. Decisions (best checkpoint, plateau) look at validation, the test part is touched at the end. Empty
    # ("tfds" only): test is the data set's "test", else its "validation"; validation is its "validation" if that is not
    # the test part, else the last 10% of its "train".
    train="train",
    validation="validation",
    test="test",
    classes=(),  # names of the classes that are used, the others are left out; (): all
    images_per_class=0,  # of the train part: so many of each class, drawn by the seed; 0: all
    train_on="train",  # or "train+validation": the final run of a recipe; no decisions are possible then
    placement="device",  # "device": all images in the accelerator's memory; "stream": read while training
    workers=8,  # threads that read and decode a stream
    prefetch=2,  # batches of a stream that they are ahead
    timeout=600.0,  # seconds to wait for them before the run ends: storage that does not answer
    # "raise": an example that cannot be read ends the run; "skip" (of a stream): the next one of its batch takes its
    # place in training, an evaluation leaves it out, and both count it (training: since the command began).
    on_error="raise",
    # Host side: from the stored image to image_size. "resize" stretches (bilinear).
    # Others are random: "random_resized" takes 8-100% of the area with an aspect of 3/4-4/3, resized (GoogLeNet);
    # "random" brings the shorter side to a random length in train_resize and takes a part of image_size: (256, 512)
    # is VGG's, (256, 480) ResNet's; "random_central" takes the part from the central square: (256, 256) is AlexNet's.
    train_crop="resize",
    train_resize=(256, 256),  # pixels, lowest and highest
    scaled_decoding=False,  # of JPEGs, in training only: at 1/2, 1/4 or 1/8 where the crop needs no more
    test_crop="resize",  # or "center": shorter side to test_resize, then the centre of image_size
    test_resize=256,  # pixels
    # Device side, inside the step, in this order.
    #   "pad_crop:4"          pads 4 pixels of zeros, crops at random (ResNet on CIFAR)
    #   "flip"                mirrors left to right, one in two
    #   "pca_colour:0.1"      shifts the colours, weights of that standard deviation (AlexNet)
    #   "random_erasing:0.5"  noise in the place of a rectangle, with that probability (Zhong et al. 2020)
    #   "rand_augment:2:9"    2 random operations of magnitude 9 of 10 (Cubuk et al. 2020)
    #   "mixup:0.2", "cutmix:1.0"   mix an example with another of its batch, by Beta(0.2, 0.2) (Zhang et al. 2018; Yun
    #                               et al. 2019): one of them, and last. The loss of the log is then that of both
    #                               labels, its training error with respect to the example's own.
    augment=(),  # images only
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
PHOTOGRAPHS = dict(
    image_size=(224, 224),
    placement="stream",
    train_crop="random_resized",
    test_crop="center",
    augment=("flip",),
    **IMAGENET_STATISTICS,
)
# A data set of TFDS that has no row; of it come the number of classes and the parts.
ANY = PHOTOGRAPHS | dict(num_classes=0, train="", validation="", test="")
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
    # Cut-out house numbers; a mirrored digit is another or none. The 531,131 easier "extra" images are not used.
    "svhn_cropped": dict(train="train[:90%]", validation="train[90%:]", augment=("pad_crop:4",)),
    "imagenette": PHOTOGRAPHS | dict(train="train[:90%]", validation="train[90%:]", test="validation"),
    "oxford_flowers102": PHOTOGRAPHS | dict(num_classes=102),
    # Pictures in DIR/train/CLASS/ and DIR/val/CLASS/; for DIR/CLASS/ give shares: train=70%, validation=10%, test=20%.
    "folder": PHOTOGRAPHS
    | dict(source="folder", num_classes=0, train="train[:90%]", validation="train[90%:]", test="val"),
    # The test labels of ImageNet are not public: as everywhere, its 50,000 validation images are the test part here,
    # and the last 1% of the training images serve for validation.
    "imagenet2012": PHOTOGRAPHS
    | dict(num_classes=1000, train="train[:99%]", validation="train[99%:]", test="validation"),
}


def get_dataset(name: str) -> ConfigDict:
    """Returns config.data for the data set called `name`: its row of DATASETS, else `ANY`, a data set of TFDS.

    Raises:
      ValueError: `name` is not of the form NAME or NAME/VARIANT. Whether TFDS has it is seen when it is opened.
    """
    if not re.fullmatch(r"\w+(/\w[\w.+-]*)?", name):
        raise ValueError(
            f"a data set is called NAME or NAME/VARIANT, not {name!r}. Known: {', '.join(DATASETS)}, and every "
            "classification set of TFDS"
        )
    return ConfigDict(dict(name=name) | FIELDS | DATASETS.get(name, DATASETS.get(name.split("/")[0], ANY)))
