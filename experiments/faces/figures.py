"""The curves of verification and identification."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from cnn_jax.display import plots


def draw_roc(false: np.ndarray, true: np.ndarray, eer: float, path: Path, *, title: str) -> Path:
    """Draws a ROC: the share of true accepts over that of false ones, both [T], and the point of equal error."""
    figure, axis = plots.subplots(1, figsize=(5.5, 5.5), layout="constrained")
    axis.plot([0, 100], [100, 0], color="0.7", lw=1, ls="--")
    axis.plot(100 * false, 100 * true, color="C0", lw=1.5)
    axis.plot(100 * eer, 100 * (1 - eer), "o", color="C1", label=f"equal error rate {eer:.1%}")
    axis.set_xlabel("pairs of different persons accepted, %")
    axis.set_ylabel("pairs of the same person accepted, %")
    axis.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    axis.set_title(title, fontsize=10, wrap=True)
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    return plots.save(figure, path)


def draw_cmc(shares: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws a cumulative match characteristic: the share of queries, [K], whose person is among the k nearest."""
    figure, axis = plots.subplots(1, figsize=(5.5, 4), layout="constrained")
    axis.plot(np.arange(1, len(shares) + 1), 100 * shares, color="C0", marker="o", ms=3, lw=1.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(0, 102)
    axis.set_xlabel("rank k")
    axis.set_ylabel("right person among the k nearest, %")
    axis.set_title(title, fontsize=10, wrap=True)
    axis.grid(alpha=0.3)
    return plots.save(figure, path)
