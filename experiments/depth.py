"""Is a deeper VGG network better?

Hypothesis: yes, until 16 to 19 layers (Simonyan and Zisserman 2014, Table 3: 29.6, 28.7, 28.1, 27.0 and 27.3% top-1
error of A, B, C, D and E at one scale).

Digits are too easy to tell depths apart: the small grid shows what depth costs in training, with batch normalization,
without which the deepest need the paper's pretraining or more steps. The full grid asks it of photographs.
"""

from cnn_jax.sweeping.question import Arm, Experiment, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "model.norm": "batch"} | (SMALL if small else {})
    networks = ("vgg11", "vgg13", "vgg16c", "vgg16", "vgg19") if full else ("vgg11", "vgg13", "vgg16")
    arms = [Arm(network, f"vgg11:{dataset}", {"model.name": network} | fixed) for network in networks]
    return Experiment(
        arms=tuple(arms),
        compare=("model.name",),
        search=("optim.learning_rate", (0.01, 0.03)),
        recipes=two_recipes(60) if small else {},
    )
