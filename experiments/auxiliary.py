"""Do GoogLeNet's auxiliary classifiers help?

Hypothesis: a little at most: their effect was found to be about 0.5 points, one of them giving the same (Szegedy et al.
2014, section 5), and later that they act as regularizers near the end of training (Szegedy et al. 2015, section 4).

Digits: 539 for training, 1,078 for the test, a quarter of the width, enlarged to 80x80, of which the first classifier
pools 5x5. The full grid asks it of photographs.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "10 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "data.image_size": (80, 80)} | (SMALL if small else {})
    fields = {"model.norm": ("batch", "lrn") if full else ("batch",), "model.auxiliary": (False, True)}
    return Experiment(
        arms=tuple(grid(f"googlenet:{dataset}", fields, fixed=fixed)),
        compare=("model.auxiliary",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
