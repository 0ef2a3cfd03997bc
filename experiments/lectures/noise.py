"""The X/O network learns from X's and O's that are shifted, rotated, thickened and noisy (lecture 002).

    python -m experiments.lectures.noise --plot=noise.png

Two networks see the same drawn pictures. One learns its features, the other keeps the lecture's three and learns the
votes only. Both are tested on other pictures, with more and more noise; in training they saw noise of 0.3 only.
"""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.display import plots
from experiments.lectures import layers

NOISE = (0.0, 0.3, 0.6, 0.9, 1.2, 2.0)  # largest change of a pixel, where black and white are 1 apart


def train(folder: Path, *, kept: bool) -> None:
    """Trains the toy network by its recipe, with learned features or with the lecture's fixed ones."""
    config: Any = recipes.load("toy")
    if kept:
        config.model.features_from = "lecture"
        config.optim.lr_multipliers = (("conv1/.*", 0.0),)
    cnn_jax.train(config, folder, console=Console(quiet=True))


def run() -> layers.Draw:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kept in (("features learned", False), ("the lecture's features", True)):
            train(Path(folder) / name, kept=kept)
            scores = [cnn_jax.score(Path(folder) / name, "xo", noise=noise) for noise in NOISE]
            found[name] = [1 - score["error"] for score in scores]
    print("noise                   " + "".join(f"{noise:8}" for noise in NOISE))
    for name, accuracies in found.items():
        print(f"{name:24}" + "".join(f"{accuracy:8.1%}" for accuracy in accuracies))

    def draw(path: Path) -> None:
        figure, axis = plots.subplots(1, figsize=(4.5, 3))
        for name, accuracies in found.items():
            axis.plot(NOISE, [100 * accuracy for accuracy in accuracies], "o-", label=name)
        axis.axvline(0.3, color="0.6", lw=1, ls=":")
        axis.set(xlabel="noise in the test (dotted: in training)", ylabel="accuracy, %", ylim=(45, 101))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        plots.save(figure, path)

    return draw


if __name__ == "__main__":
    layers.call(run, __doc__)
