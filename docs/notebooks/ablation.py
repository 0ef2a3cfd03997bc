# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An ablation with error bars
#
# Which activation and which pooling should LeNet-5 have? An ablation changes one thing and keeps all others. One run
# of each does not answer the question: another seed gives other initial weights and another order of the examples,
# and so another error. This notebook trains each arm with several seeds and says how sure the answer is.
#
# The data are the 1,797 handwritten digits that scikit-learn carries. 30% of them train the network and 60% test it: a
# large test part makes the errors less noisy.

# %%
# %matplotlib inline
import itertools
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.core import compilation_cache
from cnn_jax.display import plots
from cnn_jax.sweeping.intervals import mean, paired_difference
from cnn_jax.tracking.recorder import read_jsonl

compilation_cache.enable()  # seeds of one arm share a compiled program
SEEDS, RATE = range(5), 0.02
ARMS = list(itertools.product(("relu", "tanh"), ("max", "average")))  # the fields activation and pool
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# Arms of one seed see the same examples in the same order. So the difference of two arms is best taken seed by seed,
# where what they have in common cancels.

# %%


def train(activation, pool, seed):
    """Returns the test error of one run, %."""
    config = recipes.load("lenet5")
    config.seed, config.duration = seed, "8 epochs"
    config.model.activation, config.model.pool = activation, pool
    config.optim.learning_rate = RATE
    config.data.train, config.data.validation, config.data.test = "30%", "10%", "60%"
    config.eval.every = config.checkpoint.every = "8 epochs"
    found = cnn_jax.train(config, folder / f"{activation}-{pool}-{seed}", console=Console(quiet=True))
    return 100 * found["test"]["error"]


errors = {arm: {seed: train(*arm, seed) for seed in SEEDS} for arm in ARMS}
for (activation, pool), found in errors.items():
    print(f"{activation:5}{pool:8}", "  ".join(f"{error:6.2f}" for error in found.values()))

# %% [markdown]
# Each row is an arm, each column a seed, each number a test error in %. Had we trained one seed only, chance could have
# chosen the winner. The bars below are 95% intervals of the mean (Student's t).

# %%
figure, axis = plots.subplots(1, figsize=(5.5, 3.2))
for position, found in enumerate(errors.values()):
    summary = mean(list(found.values()))
    axis.plot(np.full(len(found), position), list(found.values()), "o", color="0.7", ms=4)
    half = [[summary.mean - summary.low], [summary.high - summary.mean]]
    axis.errorbar(position, summary.mean, half, fmt="s", color=f"C{position}", capsize=4)
axis.set_xticks(range(len(ARMS)), [f"{activation}\n{pool}" for activation, pool in ARMS])
axis.set(ylabel="test error, %", title=f"LeNet-5 on digits, {len(SEEDS)} seeds", ylim=(0, None))
axis.grid(alpha=0.3)
figure

# %% [markdown]
# Now the differences. An interval that contains zero says that these seeds cannot tell the arms apart. It does not say
# that the arms are equal.

# %%
PAIRS = [
    ("tanh - relu, with max", ("relu", "max"), ("tanh", "max")),
    ("tanh - relu, with average", ("relu", "average"), ("tanh", "average")),
    ("average - max, with relu", ("relu", "max"), ("relu", "average")),
    ("average - max, with tanh", ("tanh", "max"), ("tanh", "average")),
]
differences = {name: paired_difference(errors[first], errors[second]) for name, first, second in PAIRS}
for name, found in differences.items():
    verdict = "no difference beyond the noise" if found.is_noise else "worse" if found.mean > 0 else "better"
    print(f"{name:26} {found.mean:+6.2f} points ({found.low:+.2f} to {found.high:+.2f}): {verdict}")
figure, axis = plots.subplots(1, figsize=(6.5, 2.2))
for position, found in enumerate(differences.values()):
    color = "0.6" if found.is_noise else "C3" if found.mean > 0 else "C2"
    half = [[found.mean - found.low], [found.high - found.mean]]
    axis.errorbar(found.mean, position, xerr=half, fmt="o", color=color, capsize=4)
axis.axvline(0, color="0.3", lw=1)
axis.set_yticks(range(len(differences)), list(differences))
axis.set(xlabel="difference of the test errors, points", ylim=(3.5, -0.5))
axis.grid(alpha=0.3)
figure

# %% [markdown]
# How the arms learn is in the record of each run. Where curves still fall at the end, the ablation has measured how
# fast an arm learns, not how good it becomes.

# %%
figure, axis = plots.subplots(1, figsize=(5.5, 3.2))
for position, arm in enumerate(ARMS):
    records = [read_jsonl(folder / f"{arm[0]}-{arm[1]}-{seed}" / "metrics.jsonl") for seed in SEEDS]
    train_records = [[line for line in lines if line["kind"] == "train"] for lines in records]
    losses = np.array([[line["loss"] for line in lines] for lines in train_records])
    epochs = [line["epoch"] for line in train_records[0]]
    axis.plot(epochs, losses.mean(0), color=f"C{position}", label=f"{arm[0]}, {arm[1]}")
    axis.fill_between(epochs, losses.min(0), losses.max(0), color=f"C{position}", alpha=0.15, lw=0)
axis.set(xlabel="epoch", ylabel="training loss, nats", yscale="log", title="Mean over seeds, and their range")
axis.grid(alpha=0.3)
axis.legend(fontsize=8)
figure

# %% [markdown]
# ## What may be concluded
#
# The sentences that were printed, for this network, these data, this learning rate and 8 epochs, and no more:
#
# - The intervals cover the seeds: initial weights and order of the examples. They do not cover the choice of the test
#   images, and all digits come from a few writers.
# - A learning rate that suits one activation may not suit the other, so a fair comparison tunes it for each. Set `RATE`
#   to 0.1 and run the notebook again: some networks with ReLU then learn nothing at all.
# - Where arms are equal, one of four intervals of 95% misses zero in one of five such notebooks.
#
# `cnn_jax sweep --list` names questions that the package asks in the same way, with more arms, and makes the report.
