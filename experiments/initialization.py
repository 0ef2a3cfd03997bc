"""How must the weights of a deep network begin?

Hypothesis: from normal values of deviation 0.01 networks of more than 8 convolutions hardly learn; from values scaled
by the layer's size (Glorot and Bengio 2010) they do, and from He's, which count ReLUs in, the deepest, too (He et al.
2015, section 2.2).

Digits: 539 for training, 1,078 for the test, networks at a quarter of the width. The full grid has all depths of VGG.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "model.norm": "none"} | (SMALL if small else {})
    networks = ("vgg11", "vgg13", "vgg16", "vgg19") if full else ("vgg11",)
    fields = {"model.init": ("he_fan_in", "glorot_normal", "normal_0.01")}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.init",),
        search=("optim.learning_rate", (0.01, 0.03)),
        recipes=two_recipes(60) if small else {},
    )
