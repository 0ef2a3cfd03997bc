"""Every field of a configuration, once, with its meaning and unit.

Durations are strings of a number and a unit: "14 epochs", "64000 steps" or "1000000 examples".
A network's config file takes this, sets `config.model` and the recipe of its paper, and locks nothing itself:
the command line locks the result, so that a mistyped field fails.
"""

from ml_collections import ConfigDict

from cnn_jax.config import datasets


def get_config(dataset: str = "digits") -> ConfigDict:
    """Returns the defaults for `dataset`; see `cnn_jax.config.datasets.get_dataset`."""
    config = ConfigDict()
    config.recipe = "ours"  # where the recipe comes from; printed at the start
    config.seed = 0  # of the initial parameters, the order of the examples, augmentation and dropout
    config.duration = "10 epochs"  # of training
    config.batch_size = 128  # examples in one step, over all devices
    # Of the computation: "float32" or "bfloat16"; parameters are always float32. Products of float32 are those of the
    # platform (TF32 on newer NVIDIA GPUs, bfloat16 passes on TPUs) unless JAX_DEFAULT_MATMUL_PRECISION=highest.
    config.precision = "float32"
    config.label_smoothing = 0.0  # share of the target that is spread evenly over all classes
    config.accumulation = 1  # micro-batches that one step's gradient is averaged over; each has its own BatchNorm
    config.ema_decay = 0.0  # running average of parameters and BatchNorm statistics, used by evaluation; 0: none

    # The trained network that the first parameters come from: a SOURCE of pretrained/source.py. Empty: initial values.
    config.init_from = ""
    config.take = "all"  # what is taken from it: "all", "frozen" (only what is not trained), or a regex over names
    # What is trained: "full", "head", "partial:K" (the last K stages and the head), or a regex over parameter names.
    # Everything else stays as it is to the bit, BatchNorm statistics included.
    config.trainable = "full"
    config.cache_features = False  # with trainable="head": features are computed once, not in every step

    # name: a key of cnn_jax.models.MODELS; the other fields: the network's own.
    config.model = ConfigDict()

    config.data = datasets.get_dataset(dataset)

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.1  # the highest of the schedule
    config.optim.momentum = 0.9
    config.optim.nesterov = False
    config.optim.weight_decay = 0.0
    config.optim.decay_style = "l2"  # "l2": added to the gradient, as in the papers; "decoupled": as in AdamW
    config.optim.decay_rule = ".*"  # regex over parameter names, such as conv2_x/0/conv1/kernel: which ones decay
    config.optim.clip_norm = 0.0  # largest norm of the whole gradient; 0: no clipping
    config.optim.lr_multipliers = ()  # ((regex, factor), ...): the first rule that matches a name sets its factor
    config.optim.layer_decay = 1.0  # factor of the learning rate from each stage to the one before it; the head has 1

    config.optim.schedule = ConfigDict()
    schedule = config.optim.schedule
    schedule.name = "constant"  # constant, steps, plateau, cosine, polynomial, exponential
    schedule.warmup = "0 steps"  # before the schedule
    schedule.warmup_start = 0.0  # factor of the learning rate at the first step
    schedule.warmup_shape = "linear"  # from warmup_start to 1; or "constant": warmup_start all along
    schedule.boundaries = ("30 epochs", "60 epochs", "90 epochs")  # steps: when the learning rate drops
    schedule.factor = 0.1  # steps, plateau: of each drop; exponential: of each interval
    schedule.patience = 5  # plateau: validations without improvement before a drop
    schedule.min_improvement = 0.0  # plateau: of the validation error that counts as one, in [0, 1]
    schedule.interval = "8 epochs"  # exponential: between two factors, in stairs
    schedule.power = 1.0  # polynomial
    schedule.end = 0.0  # cosine, polynomial: factor of the learning rate at the end

    config.eval = ConfigDict()
    config.eval.every = "1 epochs"  # between validations; one follows the last step in any case
    config.eval.batch_size = 256
    # How the test part is seen (eval/protocols.py): "single", "flip", "10-crop", "144-crop", "dense". Validation is
    # always "single".
    config.eval.protocol = "single"
    config.eval.scales = ()  # dense: pixels of the shorter side, averaged; (): config.data.test_resize
    config.eval.recompute_statistics = 0  # batches of training data to take BatchNorm statistics from, before a test
    config.eval.confusion_matrix = False  # writes confusion_matrix.png with the final test
    config.eval.train_part = False  # with the final test the training part is evaluated, too, without augmentation
    config.eval.layers = False  # writes layers.json: sizes of outputs and gradients, before and after training

    # Devices form a mesh of the axes "data" and "model"; the batch is split over all of them (parallel/sharding.py).
    config.mesh = ConfigDict()
    config.mesh.model = 1  # devices on the axis "model"; must divide their number
    # Where parameters are, with momentum and moving average: "replicated", on every device; "fc": the linear layers of
    # AlexNet and VGG split over "model"; "fsdp": every parameter split over "data".
    config.mesh.preset = "replicated"
    # ((regex, axes), ...) over parameter names, before the preset's: axes is a mesh axis or None for each axis of the
    # array, such as (None, "model"), or "data" or "model" alone, which splits the longest axis that divides evenly.
    config.mesh.rules = ()

    config.checkpoint = ConfigDict()
    config.checkpoint.every = "1 epochs"  # between saves; the best validations and the last step are saved in any case
    config.checkpoint.retry = 60.0  # seconds for which what storage refuses to write is tried again
    config.checkpoint.lease = 60.0  # seconds of silence after which a run in a bucket counts as dead
    config.checkpoint.keep = 2  # the latest that stay, beside the best by validation error

    config.log = ConfigDict()
    config.log.every = "50 steps"  # between training records
    config.log.tensorboard = True
    config.log.stall = 600.0  # seconds without a batch after which the stacks of all threads are printed; 0: never

    return config
