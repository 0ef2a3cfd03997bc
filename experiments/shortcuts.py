"""Which shortcuts does a residual network need: with zeros (A), with projections where sizes change (B), or all (C)?

Hypothesis: B is slightly better than A, C slightly better than B, by so little that projections are not essential (He
et al. 2016, section 4.1 and Table 3: 25.03, 24.52 and 24.19% top-1 error of ResNet-34 on ImageNet).

On digits (8x8, 539 for training, 1,078 for the test) differences of half a point are within the noise of five seeds;
the full grid has ResNet-20 and 56 with the paper's 64,000 steps on CIFAR-10.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "data.image_size": (8, 8)}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL | {"log.every": "10 steps"} if small else {})
    fields = {"model.depth": (20, 56) if full else (20,), "model.shortcut": ("A", "B", "C")}
    return Experiment(
        arms=tuple(grid(f"cifar_resnet:{dataset}", fields, fixed=fixed)),
        compare=("model.shortcut",),
        search=("optim.learning_rate", (0.03, 0.1)) if small else None,
        recipes=two_recipes(40) if small else {},
    )
