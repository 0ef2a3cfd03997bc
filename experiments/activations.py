"""Do rectified linear units learn faster than saturating ones?

Hypothesis: yes. A four-layer network with ReLUs reaches 25% training error on CIFAR-10 six times sooner than one with
tanh, both at their own best learning rates (Krizhevsky et al. 2012, section 3.1 and Fig. 1); sigmoid is slowest,
because its outputs are not centered and its slope is a quarter at most.

The curves show the epochs to any training error. Digits: 539 for training, 1,078 for the test. The full grid trains
AlexNet for small images, too.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "model.init": "glorot_uniform"} | (SMALL if small else {})
    networks = ("lenet5", "alexnet") if full else ("lenet5",)
    fields = {"model.activation": ("relu", "tanh", "sigmoid")}
    return Experiment(
        arms=tuple(
            arm for network in networks for arm in grid(f"{network}:{dataset}", fields, fixed=fixed, label=network)
        ),
        compare=("model.activation",),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
