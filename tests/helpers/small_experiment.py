"""Is wide better than narrow?

Hypothesis: yes, as everybody knows.
"""

from cnn_jax.sweeping.question import Experiment, grid


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    fixed = {"duration": "4 steps", "log.every": "2 steps", "eval.every": "2 steps", "optim.schedule.warmup": "0 steps"}
    fixed |= {"eval.train_part": True, "log.trackers": ""}
    if full:
        fixed["eval.layers"] = True
    return Experiment(
        arms=tuple(grid(f"configs/mlp.py:{dataset}", {"model.width": (0.1, 0.05)}, fixed=fixed)),
        compare=("model.width",),
        seeds=2,
        figures=("curves", "cost", "layers") if full else ("curves", "cost"),
    )
