"""Does a large batch with a learning rate that grows with it train as well as a small one?

Hypothesis: yes, up to some size, with a warm-up (Goyal et al. 2017, section 2.1: the rate grows linearly with the
batch, up to 8,192 images of ImageNet in a step). Beyond it there are too few steps.

The rate is that of the recipe for a batch of 32 here, and is scaled from there; it is not searched. Digits: 1,437 for
training. The full grid has ResNet-20 on CIFAR-10, from 128 to 2,048.
"""

from cnn_jax.sweeping.question import Experiment, grid

RECIPES = {
    "cosine": {"optim.schedule.name": "cosine"},
    "linear": {"optim.schedule.name": "polynomial", "optim.schedule.power": 1.0},
}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "optim.base_batch_size": 32 if small else 128}
    if small:
        fixed |= {"duration": "60 epochs", "optim.learning_rate": 0.05, "log.every": "1 epochs"}
        fixed |= {"optim.schedule.warmup": "5 epochs"}
    fields = {"batch_size": (32, 128, 512) if small else (128, 512, 2048)}
    return Experiment(
        arms=tuple(grid(f"{'lenet5' if small else 'resnet20'}:{dataset}", fields, fixed=fixed)),
        compare=("batch_size",),
        recipes=RECIPES if small else {},
    )
