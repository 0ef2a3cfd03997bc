"""Every field of a configuration once: default, meaning with its unit, rule, and whether it may change on resume.

Durations are strings of a number and a unit: "14 epochs", "64000 steps" or "1000000 examples". A recipe calls
`get_config(dataset, network)`, sets what its paper says otherwise, and locks nothing: the command line locks the
result, so that a mistyped field fails. The fields of a network are those of its family (`cnn_jax.models`).
"""

import re
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.config import datasets
from cnn_jax.config.durations import Duration
from cnn_jax.core.errors import UserError
from cnn_jax.core.imports import ChoiceOrPath, is_path
from cnn_jax.core.rules import (
    FACTOR,
    FRACTION,
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    SHARE,
    Choice,
    Each,
    Field,
    Rule,
    is_number,
)
from cnn_jax.models import options

MESH_AXES = ("data", "model")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def _is_multiplier(rule: Any) -> bool:
    return _is_pair(rule) and is_number(rule[1]) and rule[1] >= 0


def _is_sharding(rule: Any) -> bool:
    return _is_pair(rule) and _are_axes(rule[1])


def _is_pair(rule: Any) -> bool:
    return isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str)


def _are_axes(axes: Any) -> bool:
    if isinstance(axes, str):
        return axes in MESH_AXES
    named = [axis for axis in axes if axis is not None] if isinstance(axes, (tuple, list)) else [axes]
    return len(set(named)) == len(named) and set(named) <= set(MESH_AXES)


FOLD = re.compile(r"((?P<number>\d+|seed)/(?P<count>\d+))?")


def _is_fold(text: Any) -> bool:
    found = FOLD.fullmatch(text)
    if found is None or not text:
        return found is not None
    count = int(found["count"])
    return count >= 2 and (found["number"] == "seed" or 1 <= int(found["number"]) <= count)


FIELDS: dict[str, Field] = {
    "recipe": Field("ours", "Source of the recipe, printed at the start."),
    "seed": Field(
        0,
        "Seed of the initial parameters, the order of the examples, augmentation and dropout.",
        Rule("at least 0, not negative, and below 2**32", lambda seed: 0 <= seed < 2**32),
    ),
    "duration": Field("10 epochs", "Length of training.", Duration(above_zero=True)),
    "batch_size": Field(128, "Examples in one step, over all devices.", POSITIVE),
    "precision": Field(
        "float32",
        "Type of the computation: float32 or bfloat16. Parameters are always float32. Products of float32 are the "
        "platform's (TF32 on newer NVIDIA GPUs, bfloat16 passes on TPUs) unless JAX_DEFAULT_MATMUL_PRECISION=highest.",
        Choice("float32", "bfloat16"),
    ),
    "cpu_kernels": Field(
        True,
        "On one CPU, compute convolutions and max pooling with kernels that the machine's C++ compiler builds once; "
        "False: XLA's own operations. Results differ by rounding.",
        resume=True,
    ),
    "loss": Field(
        "cross_entropy",
        "Loss of an example: cross_entropy (of a softmax), focal (Lin et al. 2017), binary_cross_entropy (a sigmoid "
        "for each class; Wightman et al. 2021), or the import path of a function of your own, mypackage.losses:poly, "
        "of scores float32 [B, K] and labels int [B], that returns [B].",
        ChoiceOrPath("cross_entropy", "focal", "binary_cross_entropy"),
    ),
    "loss_options": Field(
        {},
        "Further keyword arguments of the loss: {'gamma': 2.0} of focal, {'sum_classes': False} of "
        "binary_cross_entropy (the mean over classes), those of your own.",
    ),
    "class_weights": Field(
        "",
        "Factor of the loss of an example by its class: balanced (N / (K n), where n of N training examples are of one "
        "of K classes), or a number for each class in their order, such as '1,2.5,1'; empty: 1.",
        type=str,
    ),
    "strict_sizes": Field(
        False,
        "Refuse image sizes of which a layer drops positions at the border, because its stride does not divide them.",
        resume=True,
    ),
    "label_smoothing": Field(0.0, "Share of the target that is spread evenly over all classes.", SHARE),
    "remat": Field(
        False,
        "Compute each block (of ResNets: residual block) again in the backward pass, instead of keeping its layers' "
        "outputs (Chen et al. 2016): less memory, up to a third more computation. On CPUs XLA does so "
        "only where more than 40 equal blocks follow one another, as in ResNet-1202. Results differ by rounding.",
        Rule("True or False", lambda value: isinstance(value, bool)),
        resume=True,
    ),
    "norm_group": Field(
        0,
        "Images in a row that share BatchNorm statistics in training, 32 in Goyal et al. 2017, section 2.3; 0: all of "
        "a batch. With a device's share of the batch, or a divisor of it, devices exchange no statistics.",
        NOT_NEGATIVE,
    ),
    "accumulation": Field(
        1, "Micro-batches that one step averages its gradient over; each has its own BatchNorm statistics.", POSITIVE
    ),
    "ema_decay": Field(
        0.0, "Decay of the moving average of parameters and statistics that evaluation uses; 0: no average.", SHARE
    ),
    "swa_last": Field(
        "0 epochs",
        "Last part of training over which weights are averaged (SWA, Izmailov et al. 2018), such as '10 epochs'. "
        "Evaluation and checkpoints then use the average, with recomputed BatchNorm statistics "
        "(eval.recompute_statistics batches; 0: an epoch). 0 epochs: no average.",
        Duration(),
    ),
    "swa_every": Field(
        "1 epochs",
        "Time between the weights that swa_last averages. There must be at least 2; the last step has one.",
        Duration(above_zero=True),
    ),
    # ------------------------------------------------------------ fine-tuning
    "init_from": Field("", "Pretrained network that training starts from, a SOURCE; empty: initial values."),
    "take": Field(
        "all", "What is taken from init_from: all, frozen (only what is not trained), or a regex over parameter names."
    ),
    "trainable": Field(
        "full",
        "What is trained: full, head, partial:K (the last K stages and the head), or a regex over parameter names. "
        "Everything else stays bit-identical, BatchNorm statistics included.",
    ),
    "cache_features": Field(False, "With trainable=head: compute the features once, not in every step."),
    # ------------------------------------------------------------ optimizer
    "optim.name": Field(
        "sgd",
        "Optimizer: sgd (the papers'), or another one of optax: adam, adamw, lamb, lars, lion, rmsprop, adagrad, "
        "adafactor, contrib.muon, contrib.prodigy, ... An unknown name prints all.",
        type=str,
    ),
    "optim.options": Field(
        {},
        "Arguments of the optax function, except those with a field of their own, such as {'b2': 0.95} of adamw, or "
        "options.b2=0.95. For those that choose parameters (trust_ratio_mask of lars, muon_weight_dimension_numbers of "
        "contrib.muon) give a regex over their names.",
    ),
    "optim.learning_rate": Field(0.1, "Peak of the schedule.", NOT_NEGATIVE),
    "optim.base_batch_size": Field(
        0,
        "Batch size that learning_rate is for: the peak is learning_rate * batch_size / base_batch_size (Goyal et al. "
        "2017); 0: the peak is learning_rate.",
        Rule("0 or a whole number above 0", lambda size: isinstance(size, int) and size >= 0),
    ),
    "optim.momentum": Field(0.9, "Momentum of sgd; for other optimizers it is one of optim.options.", SHARE),
    "optim.nesterov": Field(False, "Nesterov's form of the momentum of sgd."),
    "optim.weight_decay": Field(0.0, "Weight decay.", NOT_NEGATIVE),
    "optim.decay_style": Field(
        "l2",
        "Weight decay of sgd, adam, rmsprop and others that have none. l2: added to the gradient, as in the papers; "
        "decoupled: as in AdamW. adamw, lion, lamb, lars, contrib.muon and others decay as their papers say.",
        Choice("l2", "decoupled"),
    ),
    "optim.decay_rule": Field(".*", "Regex over parameter names, such as conv2_x/0/conv1/kernel: which ones decay."),
    "optim.clip_value": Field(0.0, "Largest magnitude of an entry of the gradient; 0: no clipping.", NOT_NEGATIVE),
    "optim.clip_adaptive": Field(
        0.0,
        "Largest norm of the gradient of a unit (the weights of an output) over that of its weights: adaptive gradient "
        "clipping (Brock et al. 2021), such as 0.01; 0: no clipping.",
        NOT_NEGATIVE,
    ),
    "optim.clip_adaptive_rule": Field(
        "(?!head/classifier/).*", "Regex over parameter names: whose gradients clip_adaptive clips."
    ),
    "optim.clip_norm": Field(
        0.0, "Largest norm of the whole gradient, after the other two; 0: no clipping.", NOT_NEGATIVE
    ),
    "optim.lr_multipliers": Field(
        (),
        "((regex, factor), ...) over parameter names: the first rule that matches sets the learning rate's factor.",
        Each("a rule (regex, factor)", _is_multiplier),
    ),
    "optim.layer_decay": Field(
        1.0, "Factor of the learning rate from each stage to the one before it; the head has 1.", FACTOR
    ),
    "optim.schedule.name": Field(
        "constant",
        "Shape of the learning rate over time: constant, steps, plateau, cosine, cosine_restarts, one_cycle, "
        "polynomial, exponential, warmup_stable_decay, or the import path of a function of your own, "
        "mypackage.schedules:sawtooth, of (total steps, peak), that returns a function step -> learning rate.",
        ChoiceOrPath(
            *("constant", "steps", "plateau", "cosine", "cosine_restarts", "one_cycle", "polynomial", "exponential"),
            "warmup_stable_decay",
        ),
    ),
    "optim.schedule.warmup": Field("0 steps", "Warm-up before the schedule.", Duration()),
    "optim.schedule.warmup_start": Field(0.0, "Factor of the learning rate at the first step.", FRACTION),
    "optim.schedule.warmup_shape": Field(
        "linear",
        "linear: from warmup_start to 1; constant: warmup_start all along.",
        Choice("linear", "constant"),
    ),
    "optim.schedule.boundaries": Field(
        ("30 epochs", "60 epochs", "90 epochs"), "steps: when the learning rate drops.", Duration(each=True)
    ),
    "optim.schedule.factor": Field(
        0.1, "steps, plateau: factor of each drop; exponential: factor after each interval.", FACTOR
    ),
    "optim.schedule.patience": Field(
        5,
        "plateau: validations without improvement before a drop.",
        Rule("at least 1 validation, not negative", lambda count: count >= 1),
    ),
    "optim.schedule.min_improvement": Field(
        0.0, "plateau: smallest decrease of the validation error that is an improvement, in [0, 1].", NOT_NEGATIVE
    ),
    "optim.schedule.interval": Field(
        "8 epochs", "exponential: time from one drop to the next.", Duration(above_zero=True)
    ),
    "optim.schedule.power": Field(
        1.0, "polynomial, warmup_stable_decay: exponent.", Rule("in [0, 100]", lambda power: 0 <= power <= 100)
    ),
    "optim.schedule.end": Field(
        0.0,
        "cosine, cosine_restarts, polynomial, warmup_stable_decay: factor of the learning rate at the end.",
        FRACTION,
    ),
    "optim.schedule.cycle": Field(
        "10 epochs",
        "cosine_restarts: length of the first cosine (Loshchilov & Hutter 2017).",
        Duration(above_zero=True),
    ),
    "optim.schedule.cycle_factor": Field(
        1.0,
        "cosine_restarts: length of each cosine over that of the one before.",
        Rule("in [1, 10]", lambda factor: 1 <= factor <= 10),
    ),
    "optim.schedule.pct_start": Field(
        0.3,
        "one_cycle: share of training in which the learning rate rises (Smith & Topin 2019).",
        Rule("in (0, 1)", lambda share: 0 < share < 1),
    ),
    "optim.schedule.div_factor": Field(25.0, "one_cycle: peak over the first learning rate.", POSITIVE),
    "optim.schedule.final_div_factor": Field(1e4, "one_cycle: first over the last learning rate.", POSITIVE),
    "optim.schedule.cooldown": Field(
        0.2,
        "warmup_stable_decay: share of training, at its end, in which the learning rate falls (Zhai et al. 2022).",
        Rule("in (0, 1]", lambda share: 0 < share <= 1),
    ),
    # ------------------------------------------------------------ evaluation
    "eval.every": Field(
        "1 epochs", "Time between validations; one always follows the last step.", Duration(above_zero=True)
    ),
    "eval.patience": Field(
        0,
        "Early stopping: training ends after this many validations without a lower error than the best; 0: it does "
        "not. The last state is tested, the best one is FOLDER@best.",
        NOT_NEGATIVE,
        type=int,
    ),
    "eval.batch_size": Field(256, "Examples in one evaluation step, over all devices.", POSITIVE, resume=True),
    "eval.protocol": Field(
        "single",
        "Views of a test image: single, flip, 10-crop, 144-crop or dense (cnn_jax/eval/protocols.py). Validation is "
        "always single.",
        Choice("single", "flip", "10-crop", "144-crop", "dense"),
    ),
    "eval.scales": Field((), "dense: pixels of the shorter side, averaged; (): data.test_resize."),
    "eval.recompute_statistics": Field(
        0, "Batches of training data to take BatchNorm statistics from before a test.", NOT_NEGATIVE
    ),
    "eval.metrics": Field(
        (),
        "Further metrics: import paths of functions of your own, mypackage.metrics:balanced_accuracy, of probabilities "
        "float64 [N, K] and labels int [N], that return a number.",
        Each("an import path such as 'mypackage.metrics:name'", is_path),
    ),
    "eval.confusion_matrix": Field(False, "Write confusion_matrix.png with the final test.", resume=True),
    "eval.train_part": Field(
        False, "Evaluate the training part with the final test, too, without augmentation.", resume=True
    ),
    "eval.layers": Field(
        False, "Write layers.json: sizes of outputs and gradients, before and after training.", resume=True
    ),
    # ------------------------------------------------------------ devices
    "mesh.model": Field(
        1,
        'Devices on the mesh axis "model"; must divide their number. The batch is split over all devices '
        "(cnn_jax/parallel/mesh.py).",
        POSITIVE,
        resume=True,
    ),
    "mesh.preset": Field(
        "replicated",
        "Where parameters, momentum and EMA live: replicated, on every device; fc: the linear layers split over "
        '"model"; fsdp: every large parameter split over "data".',
        Choice("replicated", "fc", "fsdp"),
        resume=True,
    ),
    "mesh.rules": Field(
        (),
        "((regex, axes), ...) over parameter names, before the preset's. axes: a mesh axis or None for each axis of "
        'the array, such as (None, "model"), or "data" or "model" alone, which splits the longest axis that divides '
        "evenly.",
        Each(
            "a rule (regex, axes): 'data', 'model', or one of 'data', 'model' and None for each axis of the array, no "
            "name twice",
            _is_sharding,
        ),
        resume=True,
    ),
    # ------------------------------------------------------------ checkpoints and records
    "checkpoint.every": Field(
        "1 epochs",
        "Time between saves; the best validation and the last step are always saved.",
        Duration(above_zero=True),
        resume=True,
    ),
    "checkpoint.keep": Field(
        2, "Latest checkpoints to keep, besides the best by validation error.", POSITIVE, resume=True
    ),
    "log.every": Field("50 steps", "Time between training records.", Duration(above_zero=True), resume=True),
    "log.layers": Field(
        "0 steps",
        "Time between records of every layer in layers.jsonl, on the first training batch: deviation of its outputs, "
        "share of dead channels, norms of weights and gradients. Each takes as long as a step. 0: none.",
        Duration(),
        resume=True,
    ),
    "log.trackers": Field(
        "tensorboard",
        "Programs that show runs, separated by commas: tensorboard (files in the run's folder), wandb, mlflow, trackio "
        "(pip install 'cnn-jax[wandb]' and so on), or the import path of a class of your own, mypackage.trackers:Mine "
        "(cnn_jax/tracking/trackers.py); empty: none. Only the first process reports. An error of a tracker does not "
        "end the run.",
        Rule(
            "words of tensorboard, wandb, mlflow and trackio or import paths, separated by commas, or empty",
            lambda text: all(name in TRACKERS or is_path(name) for name in text.replace(" ", "").split(",") if name),
        ),
        resume=True,
        type=str,
    ),
    "log.stall": Field(
        600.0, "Seconds without a batch after which all stack traces are printed; 0: never.", NOT_NEGATIVE, resume=True
    ),
    # ------------------------------------------------------------ data: where it comes from
    "data.name": Field("digits", "Name of the data set: the word behind the recipe, as in resnet50:cifar10."),
    "data.source": Field(
        "tfds",
        "tfds (any classification set that TFDS prepares), folder (class folders of pictures), table (a .csv, .tsv or "
        ".parquet file of paths and classes), hf (Hugging Face), digits (scikit-learn's), xo, sequences or "
        "moving_digits (drawn), synthetic (noise), given (the argument data of cnn_jax.train), or the import path of a "
        "function of your own, mypackage.data:open_dataset (cnn_jax/data/sources/custom.py).",
        ChoiceOrPath(
            "tfds", "folder", "table", "hf", "digits", "xo", "sequences", "moving_digits", "synthetic", "given"
        ),
    ),
    "data.dir": Field(
        "",
        "Folder of prepared TFDS data sets (empty: TFDS_DATA_DIR, else ~/tensorflow_datasets), or of class folders, or "
        "of a data set of Hugging Face, or the file of a table.",
        resume=True,
    ),
    "data.columns": Field(
        (),
        "table, hf: the columns of the picture and of its class, such as ('photo', 'species'); (): of a table path, "
        "file, image or filename, and label or class; of hf the column of each type. The column split of a table, if "
        "there is one, names the parts.",
        Rule("() or two names", lambda names: len(names) in (0, 2) and all(isinstance(name, str) for name in names)),
    ),
    "data.num_classes": Field(10, "Number of classes; 0: as many as the data set has."),
    "data.image_size": Field(
        (32, 32),
        "Pixels that the network sees: (height, width) of images, (length,) of sequences, (time, height, width) of "
        "clips. Stored images are resized to it, other examples are drawn in it.",
    ),
    "data.channels": Field(3, "Channels of an example.", POSITIVE),
    "data.train": Field(
        "train",
        "Training part. Parts are splits of TFDS, hf or a table, folders, or shares such as 70%. Empty: chosen by what "
        "the data set has. Decisions (best checkpoint, plateau) look at validation; the test part is touched at the "
        "end.",
    ),
    "data.validation": Field("validation", "Validation part. Empty: the set's own, else 10% of train."),
    "data.test": Field("test", "Test part. Empty: the set's own test part, else its validation part."),
    "data.classes": Field((), "Names of the classes to use, the others are left out; (): all."),
    "data.images_per_class": Field(0, "Training examples of each class, drawn by the seed; 0: all.", NOT_NEGATIVE),
    "data.fold": Field(
        "",
        "Cross-validation: 2/5 cuts the training and validation parts together into five folds, each with an equal "
        "share of every class; the second validates, the others train. seed/5: fold seed % 5 + 1, so that the seeds of "
        "a sweep are the folds. Empty: none.",
        Rule("empty, or such as 2/5 or seed/5", _is_fold),
    ),
    "data.train_on": Field(
        "train",
        "train, or train+validation for the final run of a recipe; no decisions are possible then.",
        Choice("train", "train+validation"),
    ),
    "data.sampling": Field(
        "uniform",
        "uniform: every example once an epoch. balanced: every class equally often, and within a class every example; "
        "an epoch stays as many examples long as the training part has.",
        Choice("uniform", "balanced"),
    ),
    "data.placement": Field(
        "device",
        "device: all images in the accelerator's memory; stream: read while training.",
        Choice("device", "stream"),
    ),
    "data.workers": Field(
        8,
        "Threads that read and decode a stream.",
        Rule("above 0, at most 4096", lambda count: 1 <= count <= 4096),
        resume=True,
    ),
    "data.prefetch": Field(2, "Batches of a stream that workers read ahead.", POSITIVE, resume=True),
    "data.timeout": Field(600.0, "Seconds to wait for a batch before the run ends.", POSITIVE, resume=True),
    "data.on_error": Field(
        "raise",
        "raise: an example that cannot be read ends the run; skip (streams): training replaces it by the next one of "
        "its batch, evaluation leaves it out, and both count it.",
        Choice("raise", "skip"),
        resume=True,
    ),
    # ------------------------------------------------------------ data: on the host, from the stored image
    "data.train_crop": Field(
        "resize",
        "resize stretches. random_resized: 8-100% of the area, aspect 3/4-4/3, resized (GoogLeNet). random: "
        "shorter side to a random length in train_resize, then a random crop: (256, 512) is VGG's, (256, 480) "
        "ResNet's. random_central: a crop from the central square: (256, 256) is AlexNet's.",
        Choice("resize", "random_resized", "random", "random_central"),
    ),
    "data.train_resize": Field((256, 256), "random, random_central: pixels of the shorter side, lowest and highest."),
    "data.scaled_decoding": Field(
        False, "Decode JPEGs at 1/2, 1/4 or 1/8 where the crop needs no more; in training only."
    ),
    "data.test_crop": Field(
        "resize",
        "resize, or center: shorter side to test_resize, then the center of image_size.",
        Choice("resize", "center"),
    ),
    "data.test_resize": Field(256, "center: pixels of the shorter side before the crop.", POSITIVE),
    "data.interpolation": Field(
        "bilinear",
        "How images are resized, in training and in tests: Pillow's bilinear or bicubic, antialiased.",
        Choice("bilinear", "bicubic"),
    ),
    # ------------------------------------------------------------ data: on the device, in the step
    "data.augment": Field(
        (),
        "Augmentations in this order: pad_crop:4 (pads 4 pixels of zeros and crops, ResNet on CIFAR), flip, "
        "vertical_flip, rotation:15 (degrees), pca_color:0.1 (AlexNet), color_jitter:0.4:0.4:0.4:0.1 (brightness, "
        "contrast, saturation, hue), grayscale:0.2, gaussian_blur:0.5:9:2.0 (probability, window, deviation), "
        "random_erasing:0.5 (Zhong et al. 2020), rand_augment:2:9 (Cubuk et al. 2020), auto_augment:imagenet or "
        "auto_augment:cifar10 (Cubuk et al. 2019), trivial_augment (Müller & Hutter 2021), augmix:3 (Hendrycks et al. "
        "2020), and last mixup:0.2 (Zhang et al. 2018) or cutmix:1.0 (Yun et al. 2019); of both, one is drawn for "
        "each batch. Import paths name your own: mypackage.augmentations:rotate:30.",
    ),
    "data.normalize": Field(
        "channel",
        "channel: (x - mean) / std of each channel; pixel: minus the mean image; none: x in [0, 1].",
        Choice("channel", "pixel", "none"),
    ),
    "data.mean": Field((), "Per channel, of images in [0, 1]; (): measured on the training part.", NUMBERS),
    "data.std": Field((), "Per channel, of images in [0, 1]; (): measured on the training part.", NUMBERS),
    # ------------------------------------------------------------ data: drawn
    "data.num_images": Field((), "Synthetic and generated data: examples in (train, validation, test)."),
    "data.noise": Field(
        0.0,
        "xo, sequences, moving_digits: largest change of every value, either way; 1 is all of the ink, or the highest "
        "motif.",
        NOT_NEGATIVE,
    ),
    "data.shift": Field(0.0, "xo: largest shift along both axes, pixels of a 9x9 image.", NOT_NEGATIVE),
    "data.rotation": Field(0.0, "xo: largest rotation, degrees, either way.", NOT_NEGATIVE),
    "data.scale": Field(
        0.0,
        "xo: largest share that the size shrinks by.",
        Rule("in [0, 1), not negative", lambda share: 0 <= share < 1),
    ),
    "data.thickness": Field(
        0.0, "xo: largest growth of half the stroke's weight, pixels of a 9x9 image.", NOT_NEGATIVE
    ),
    "data.drift": Field(0.0, "sequences: largest slope and bend of the base line, either way.", NOT_NEGATIVE),
}


def _section(name: str) -> str:
    """Returns `optim.schedule.` of optim.schedule.name."""
    return name[: name.rfind(".") + 1]


# Fields that may change when a run resumes, and whole sections of them: names that end with a dot.
RESUMABLE = tuple(name for name, field in FIELDS.items() if field.resume)
RESUMABLE += tuple(
    {_section(name) for name in RESUMABLE} - {_section(name) for name in FIELDS if name not in RESUMABLE}
)


# Fields that hold arguments of any name.
OPEN = tuple(name for name, field in FIELDS.items() if isinstance(field.default, dict))


def get_config(dataset: str = "digits", network: str | None = None) -> ConfigDict:
    """Returns the defaults of all fields for a data set and a network.

    Args:
      dataset: its row of `datasets.DATASETS`, or else `datasets.ANY`, sets config.data.
      network: a key of `models.MODELS`: config.model is its name and its fields with their defaults. None: it is empty.

    Raises:
      UserError: no such network, or `dataset` is not of the form NAME, NAME/VARIANT or hf:NAME. Whether TFDS or the Hub
        has it is seen when it is opened.
    """
    if not re.fullmatch(r"\w+(/\w[\w.+-]*)?|hf:[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", dataset):
        raise UserError(
            f"a data set is called NAME or NAME/VARIANT, not {dataset!r}. Known: {', '.join(datasets.DATASETS)}, every "
            "classification set of TFDS, and hf:OWNER/NAME of Hugging Face"
        )
    row = datasets.DATASETS.get(dataset, datasets.DATASETS.get(re.split("[/:]", dataset)[0], datasets.ANY))
    config: Any = defaults()
    config.data.update(dict(name=dataset) | row)
    if network is not None:
        config.model = dict(name=network) | {field: option.default for field, option in options(network).items()}
    return config


def defaults() -> ConfigDict:
    """Returns a configuration of all fields of `FIELDS`, without a network."""
    config: Any = ConfigDict()
    config.model = ConfigDict()
    for name, field in FIELDS.items():
        section, _, leaf = name.rpartition(".")
        place: Any = config
        for part in filter(None, section.split(".")):
            if part not in place:
                place[part] = ConfigDict()
            place = place[part]
        place[leaf] = ConfigDict(field.default) if isinstance(field.default, dict) else field.default
    return config


def model_fields(config: Any) -> dict[str, Any]:
    """Returns config.model without its name: the arguments of the network's constructor."""
    return {field: value for field, value in config.model.items() if field != "name"}


def get(config: Any, field: str) -> Any:
    """Returns the value of a dotted field name."""
    for name in field.split("."):
        config = config[name]
    return config
