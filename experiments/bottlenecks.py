"""What do 1x1 bottlenecks save, and what do they cost in error?

Hypothesis: a 1x1 convolution that reduces the channels before a larger one saves most of its multiply-accumulates and
parameters at nearly the same error (Lin et al. 2013; Szegedy et al. 2014, section 4; He et al. 2016, Fig. 5; Iandola et
al. 2016, section 3). Time is saved less than MACs, because small layers keep a processor less busy.

The parts are measured alone: the lectures' example (28x28x192 to 32 channels by 5x5, through 16), an Inception, a Fire
and a residual module. The runs tell what the reductions cost in error: on digits, 539 for training and 1,078 for the
test; `bottlenecks:cifar10:full` asks it of photographs.
"""

from functools import partial
from typing import Any

from cnn_jax.sweeping.question import Experiment, Part, grid, two_recipes


def lecture(reduced: bool):
    """The lectures' example: 5x5 from 192 to 32 channels, directly or through 16 (without biases)."""
    from flax import nnx

    conv = partial(_block(), bias=False)
    layers = [conv(192, 16, 1), conv(16, 32, 5, 1, 2)] if reduced else [conv(192, 32, 5, 1, 2)]
    return nnx.Sequential(*layers)


def inception(reduction: bool):
    """Inception 3a."""
    from cnn_jax.models import googlenet

    row = googlenet.MODULES["inception_3a"]
    assert row is not None
    return googlenet.Inception(192, row, _block(), reduction=reduction, small=False, kernel_plan="single")


def fire(reduction: bool):
    """Fire 4: 128 channels in, 256 out."""
    from cnn_jax.models import squeezenet

    return squeezenet.Fire(128, (32, 128, 128), _block(), reduction=reduction, bypass="none")


def residual(reduction: bool):
    """The second block of conv4_x of ResNet-50."""
    import jax

    from cnn_jax.models import resnet
    from cnn_jax.nn.init import InitKeys
    from cnn_jax.nn.layers import Conv, make_norm

    rngs = InitKeys(jax.random.key(0))
    plan = resnet.bottleneck(256, 1, variant="v1.5", groups=1, width_per_group=64, reduction=reduction)
    conv = partial(Conv, bias=False, init="he_fan_out", rngs=rngs)
    norm = partial(make_norm, "batch", rngs=rngs)
    form: dict[str, Any] = dict(activation="relu", shortcut="B", residual=True, zero_gamma=False)
    return resnet.Block(1024, plan, conv=conv, norm=norm, **form)


def _block():
    import jax

    from cnn_jax.nn.init import InitKeys
    from cnn_jax.nn.layers import ConvBlock

    return partial(ConvBlock, init="he_fan_in", rngs=InitKeys(jax.random.key(0)))


PARTS = tuple(
    Part(group, label, partial(make, reduction), shape)
    for group, make, shape in (
        ("5x5, 192 to 32", lecture, (28, 28, 192)),
        ("Inception 3a", inception, (28, 28, 192)),
        ("Fire 4", fire, (27, 27, 128)),
        ("residual, conv4_x", residual, (14, 14, 1024)),
    )
    for label, reduction in (("reduced", True), ("direct", False))
)


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    fixed = {"eval.train_part": True}
    if dataset == "digits":
        fixed |= {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "10 steps"}
    networks = ("googlenet", "squeezenet1_1", "resnet50") if full else ("googlenet", "squeezenet1_1")
    return Experiment(
        arms=tuple(
            arm
            for network in networks
            for arm in grid(f"{network}:{dataset}", {"model.reduction": (True, False)}, fixed=fixed, label=network)
        ),
        compare=("model.reduction",),
        parts=PARTS,
        search=("optim.learning_rate", (0.01, 0.03)),
        recipes=two_recipes(60) if dataset == "digits" else {},
    )
