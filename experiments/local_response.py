"""What is local response normalization worth?

Hypothesis: little. It took 1.4 points off the top-1 error of AlexNet (Krizhevsky et al. 2012, section 3.3), but made
VGG-11 no better (Simonyan and Zisserman 2014, section 4.1: 29.7% with it, 29.6% without).

Digits: 539 for training, 1,078 for the test; half a point is within the noise there. The full grid has AlexNet and
VGG-11 on photographs.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL if small else {})
    networks = ("alexnet", "vgg11") if full else ("alexnet",)
    fields = {"model.norm": ("none", "lrn")}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.norm",),
        search=("optim.learning_rate", (0.01, 0.03)),
        recipes=two_recipes(60) if small else {},
    )
