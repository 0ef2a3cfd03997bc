"""One table of data sets: a row names what differs from the defaults of `fields`."""

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
    # Noise with random labels: for measuring speed. Nothing can be learned from it.
    "synthetic": dict(source="synthetic", num_images=(2048, 256, 256), normalize="none"),
    "mnist": MNIST,
    "fashion_mnist": MNIST,
    "cifar10": CIFAR,
    "cifar100": CIFAR | dict(num_classes=100),
    # Cut-out house numbers; a mirrored digit is another or none. The 531,131 easier "extra" images are not used.
    "svhn_cropped": dict(train="train[:90%]", validation="train[90%:]", augment=("pad_crop:4",)),
    "imagenette": PHOTOGRAPHS | dict(train="train[:90%]", validation="train[90%:]", test="validation"),
    "oxford_flowers102": PHOTOGRAPHS | dict(num_classes=102),
    # Pictures in DIR/train/CLASS/ and DIR/val/CLASS/, DIR/test/CLASS/, or both; for DIR/CLASS/ give shares: train=70%,
    # validation=10%, test=20%.
    "folder": PHOTOGRAPHS | dict(source="folder", num_classes=0, train="", validation="", test=""),
    # Pictures and their classes in the .csv, .tsv or .parquet file that data.dir names; of its column "split" come the
    # parts. Without it, give shares.
    "table": PHOTOGRAPHS | dict(source="table", num_classes=0, train="", validation="", test=""),
    # A data set of Hugging Face: hf:OWNER/NAME of the Hub, or hf with the folder that data.dir names.
    "hf": PHOTOGRAPHS | dict(source="hf", num_classes=0, train="", validation="", test=""),
    # The argument `data` of cnn_jax.train, such as arrays of NumPy.
    "given": dict(source="given", num_classes=0, train="", validation="", test=""),
    # The test labels of ImageNet are not public: as everywhere, its 50,000 validation images are the test part here,
    # and the last 1% of the training images serve for validation.
    "imagenet2012": PHOTOGRAPHS
    | dict(num_classes=1000, train="train[:99%]", validation="train[99%:]", test="validation"),
}
