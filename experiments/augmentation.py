"""What is augmentation worth with few data?

Hypothesis: shifted copies of the images lower the test error and raise the training error; without them the network
overfits (Krizhevsky et al. 2012, section 4.1). Digits must not be mirrored: flips of them cost more than they bring.

180 digits for training, 1,438 for the test. The full grid asks it of ResNet-20 on CIFAR-10, whose objects can be
mirrored.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

FEW = {"data.train": "10%", "data.validation": "10%", "data.test": "80%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (FEW if small else {})
    shift = "pad_crop:2" if small else "pad_crop:4"
    fields = {"data.augment": ((), (shift,), ("flip",), (shift, "flip"))}
    return Experiment(
        arms=tuple(grid(f"{'lenet5' if small else 'resnet20'}:{dataset}", fields, fixed=fixed)),
        compare=("data.augment",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(100) if small else {},
    )
