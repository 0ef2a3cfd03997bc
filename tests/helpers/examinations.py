"""A possible compiler's account of ResNet-50, for tests of what is derived from it."""

from dataclasses import replace

from cnn_jax.ahead_of_time.compiling import Account
from cnn_jax.ahead_of_time.examination import Examination, Memory, Step
from cnn_jax.ahead_of_time.hlo import Exchange
from cnn_jax.ahead_of_time.programs import Program
from cnn_jax.ahead_of_time.targets import parse
from cnn_jax.config import recipes

ACCOUNT = Account(
    fits=True,
    needed=10**9,
    arguments=10**8,
    temporaries=8 * 10**8,
    output=10**8,
    donated=10**8,
    flops=5.8e12,
    cycles=150_000_000,
    exchanges=(Exchange("all-reduce", "bf16", 1, 51_000_000, 0),),
    convolutions={"bf16": 161},
    seconds=50.0,
)
MEMORY = Memory(
    state=10**8, batch=10**7, resident=0, padding=0, temporaries=10**9, program=0, limit=parse("v5e:2x2").chip.memory
)


def examination(target="v5e:4x4", **changes):
    """ResNet-50, 256 images on each of 16 chips: 10 MB of images and 1 GB of temporaries on each."""
    config = recipes.get_config("resnet50", "imagenet2012")
    config.batch_size = 4096
    program = Program("training", lambda: None, (), 4096, 3, 10**8, 10**7, 0)
    train = Step(program, ACCOUNT, MEMORY, macs=4 * 10**9, devices=16)
    train = replace(train, **{name: changes.pop(name) for name in ("account", "memory") if name in changes})
    evaluation = replace(train, program=replace(program, name="evaluation", passes=1))
    found = Examination(
        parse(target),
        False,
        config,
        train,
        evaluation,
        None,
        5 * 10**7,
        10**5,
        2 * 10**8,
        150_000,
        8192,
        False,
        2 * 10**9,
    )
    return replace(found, **changes)
