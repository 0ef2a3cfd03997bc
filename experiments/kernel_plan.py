"""Are several small convolutions better than one large one that sees as much?

Hypothesis: yes. Two layers of 3x3 see 5x5 and three see 7x7, with fewer parameters and more nonlinearities; a network
of 5x5 layers has a top-1 error 7% higher than the one with pairs of 3x3 (Simonyan and Zisserman 2014, sections 2.3
and 4.1).

Digits: 539 for training, 1,078 for the test. The full grid has VGG-11 and ResNet-18 (its stem) on photographs.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL if small else {})
    networks = ("lenet5", "vgg11", "resnet18") if full else ("lenet5",)
    fields = {"model.kernel_plan": ("single", "stacked")}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.kernel_plan",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
