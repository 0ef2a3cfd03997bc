"""What is weight decay worth?

Hypothesis: it is no mere regularizer: with 0.0005 AlexNet's training error falls, too (Krizhevsky et al. 2012, section
5). With few data the test error falls until the weights become too small.

180 digits for training, 1,438 for the test. The full grid asks it of ResNet-20 on CIFAR-10.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

FEW = {"data.train": "10%", "data.validation": "10%", "data.test": "80%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (FEW if small else {})
    fields = {"optim.weight_decay": (0.0, 1e-4, 5e-4, 5e-3)}
    recipes = two_recipes(100)
    del recipes["steps"]["optim.weight_decay"]  # the question itself
    return Experiment(
        arms=tuple(grid(f"{'lenet5' if small else 'resnet20'}:{dataset}", fields, fixed=fixed)),
        compare=("optim.weight_decay",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=recipes if small else {},
    )
