"""Do residual connections let depth help?

Hypothesis: deeper plain networks have a higher error, also on the training part (degradation, not overfitting), while
deeper residual networks have a lower one; BatchNorm keeps gradients alive in both, so vanishing gradients are not the
reason, and the responses of residual networks are smaller (He et al. 2016, sections 1, 4.1 and 4.2, Fig. 6 and 7).

The plain twin has the same layers and parameters without the additions; shortcuts are those without parameters (A). On
digits (8x8, 539 for training, 1,078 for the test) 60 epochs are 505 steps: enough for residual networks of 56 layers,
not for plain ones, so the small grid tells how fast depth lets a network learn. What depth is worth in the end needs
`residual:cifar10:full`, the paper's 64,000 steps for each of 10 arms and 5 seeds; there all depths have the 400 steps
at a tenth of the learning rate with which the paper begins the training of the deepest.
"""

from cnn_jax.sweeping.question import Experiment, grid, two_recipes


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    fixed = {"model.shortcut": "A", "eval.train_part": True, "eval.layers": True}
    if dataset == "digits":
        shares = {"data.train": "30%", "data.validation": "10%", "data.test": "60%"}
        fixed |= shares | {"data.image_size": (8, 8), "log.every": "10 steps"}
    else:
        warmup = {"warmup": "400 steps", "warmup_shape": "constant", "warmup_start": 0.1}
        fixed |= {f"optim.schedule.{name}": value for name, value in warmup.items()}
    depths = (20, 32, 44, 56, 110) if full else (20, 56)
    return Experiment(
        arms=tuple(
            grid(
                f"cifar_resnet:{dataset}",
                {"model.depth": depths, "model.residual": (True, False)},
                fixed=fixed,
            )
        ),
        compare=("model.residual", "model.depth"),
        equal=("parameters", "macs"),
        figures=("curves", "layers", "cost"),
        search=("optim.learning_rate", (0.03, 0.1)) if dataset == "digits" else None,
        recipes=two_recipes(60) if dataset == "digits" else {},
    )
