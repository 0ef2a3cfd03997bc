"""How should a network be made coarser: by the largest value, by the mean, or by a convolution with stride?

Hypothesis: maximum pooling is better than average pooling for recognizing objects, and a convolution with stride can
take the place of both, with more parameters (Scherer et al. 2010; Springenberg et al. 2014, Table 3).

Digits: 539 for training, 1,078 for the test. The full grid has VGG-11 on photographs.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL if small else {})
    networks = ("lenet5", "vgg11") if full else ("lenet5",)
    fields = {"model.pool": ("max", "average", "conv")}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.pool",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
