"""What is batch normalization worth to a deep network?

Hypothesis: with it a network trains at rates at which it diverges without, learns in fewer steps and ends better (Ioffe
and Szegedy 2015, sections 3.3 and 4.2); the search of the learning rate shows the range that trains. Without it a plain
network of 20 layers hardly trains at all, a residual one does.

Digits (8x8): 539 for training, 1,078 for the test. The full grid has CIFAR-10 and 56 layers, too.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "data.image_size": (8, 8)}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL | {"log.every": "10 steps"} if small else {})
    depths = (20, 56) if full else (20,)
    fields = {"model.depth": depths, "model.residual": (True, False), "model.norm": ("batch", "none")}
    return Experiment(
        arms=tuple(grid(f"cifar_resnet:{dataset}", fields, fixed=fixed)),
        compare=("model.norm",),
        search=("optim.learning_rate", (0.01, 0.03, 0.1)),
        recipes=two_recipes(40) if small else {},
    )
