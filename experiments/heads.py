"""Does global average pooling generalize better than fully connected layers, and make dropout unnecessary?

Hypothesis: a head of two hidden layers has most of a network's parameters and overfits; global average pooling has none
before its one linear layer, leaves a smaller gap between training and test, and needs no dropout (Lin et al. 2013,
section 3.2 and Table 5; He et al. 2016 and Szegedy et al. 2014 use it).

The task is one of few data, where overfitting shows: 180 digits for training, 1,438 for the test (one image is 0.07%).
Digits are easy, so differences are small. The full grid asks the same of four networks at full width on CIFAR-10.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

FEW = {"data.train": "10%", "data.validation": "10%", "data.test": "80%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "model.fc_sizes": (4096, 4096)} | (FEW if small else {})
    networks = ("alexnet", "vgg11", "googlenet", "nin") if full else ("alexnet", "nin")
    fields = {"model.head": ("gap", "fc"), "model.dropout": (0.0, 0.5)}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.head", "model.dropout"),
        search=("optim.learning_rate", (0.01, 0.03)),
        recipes=two_recipes(180) if small else {},
    )
