"""How should a small network come to see the whole image: by dilation, by stride, or not at all?

Hypothesis: rates of 1, 2, 4 and 8 see 31x31 pixels with the parameters of four layers of 3x3 that see 9x9, and keep
every position (Yu and Koltun 2016, section 2). Where one label is asked for the whole image, the mean over positions
sees all of it anyway, so dilation should be worth less than where each position has a label.

539 digits of 16x16 for training, 1,078 for the test.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "10 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL if small else {})
    fields = {"model.rates": ((1, 1, 1, 1), (1, 2, 2, 2), (1, 2, 4, 8))}
    return Experiment(
        arms=tuple(grid(f"dilated:{dataset}", fields, fixed=fixed)),
        compare=("model.rates",),
        equal=("parameters", "macs"),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
