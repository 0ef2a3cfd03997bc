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
# # From LeNet to ResNet
#
# Eight networks from 1998 to 2015: how deep they are, where their parameters, memory and computation are, and what
# shortcuts change. All numbers come from the networks themselves.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

from rich.console import Console

import cnn_jax
from cnn_jax.analysis.layer_table import stages
from cnn_jax.config import recipes
from cnn_jax.core import compilation_cache
from cnn_jax.display import plots
from cnn_jax.tracking.recorder import read_jsonl
from experiments.lectures.networks import fc_share, rows, total

compilation_cache.enable()
NETWORKS = {
    "lenet5": 1998,
    "alexnet": 2012,
    "zfnet": 2013,
    "nin": 2013,
    "vgg16": 2014,
    "googlenet": 2014,
    "resnet50": 2015,
    "resnet152": 2015,
}

# %%
print("network     year  layers   parameters            MACs  in linear layers  receptive field")
for name, year in NETWORKS.items():
    found = total(name)
    layers = sum(row.kind in ("conv", "linear") and "shortcut" not in row.name for row in rows(name))
    print(
        f"{name:10}{year:6}{layers:8}{found.parameters:13,}{found.macs:16,}{fc_share(name):17.1f}%"
        f"{found.receptive_field[0]:17}"
    )

# %% [markdown]
# The layers are convolutions and linear layers; GoogLeNet's 57 convolutions stand side by side in modules, 22 deep.
# MACs are multiply-accumulates of one image. AlexNet and VGG-16 have most of their parameters in linear layers; from
# Network in Network on, an average over positions replaces them.

# %%
figure, axis = plots.subplots(1, figsize=(6, 3.8))
for name in NETWORKS:
    found = total(name)
    axis.scatter(found.macs, found.parameters, s=4 + 2 * fc_share(name), alpha=0.7)
    at, side = ((-9, -3), "right") if name in ("alexnet", "nin") else ((9, -3), "left")
    axis.annotate(name, (found.macs, found.parameters), at, textcoords="offset points", ha=side, fontsize=8)
axis.set(xscale="log", yscale="log", xlabel="MACs of one image", ylabel="parameters", xlim=(2e5, 1e11))
axis.set_title("Large points: parameters in linear layers")
axis.grid(alpha=0.3)
figure

# %% [markdown]
# ## Where the memory is, and where the parameters are
#
# In VGG-16 the first convolutions make the largest maps, and the first linear layer has three quarters of the
# parameters.

# %%
found = [row for row in rows("vgg16") if row.kind in ("conv", "linear")]
names = [row.name.removesuffix("/conv").removeprefix("head/") for row in found]
figure, axes = plots.subplots(1, 3, figsize=(9, 4), sharey=True)
for axis, title, values in zip(
    axes,
    ("outputs, MB in float32", "parameters, million", "MACs, million"),
    ([4 * row.outputs for row in found], [row.parameters for row in found], [row.macs for row in found]),
    strict=True,
):
    axis.barh(range(len(found)), [value / 1e6 for value in values], color="C0")
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis="x")
axes[0].set_yticks(range(len(found)), names, fontsize=8)
axes[0].invert_yaxis()
figure

# %% [markdown]
# ## 1x1 convolutions
#
# GoogLeNet and the deeper ResNets reduce the channels by a 1x1 convolution before each larger filter. Without these
# reductions the same networks cost several times as much:

# %%
for name in ("googlenet", "resnet50"):
    reduced, direct = total(name), total(name, reduction=False)
    print(f"{name:10} parameters {reduced.parameters:12,} -> {direct.parameters:12,}", end="; ")
    print(f"MACs {reduced.macs:14,} -> {direct.macs:14,} ({direct.macs / reduced.macs:.1f} times)")

# %% [markdown]
# ## How the first and the last of them learn
#
# Now real training, on the digits that scikit-learn carries: LeNet-5, and small residual networks with 20 and 44
# layers, each with its plain twin, which is the same network without the shortcuts.

# %%
folder = Path(tempfile.mkdtemp())


def train(label, recipe, **fields):
    """Trains a network for 8 epochs with seed 0, and returns its test error, %."""
    config = recipes.load(recipe)
    config.model.update(fields)
    config.duration = config.eval.every = config.checkpoint.every = "8 epochs"
    config.data.image_size = (8, 8) if recipe == "cifar_resnet" else (28, 28)
    config.log.every = "5 steps"
    return 100 * cnn_jax.train(config, folder / label, console=Console(quiet=True))["test"]["error"]


errors = {"LeNet-5": train("LeNet-5", "lenet5")}
for depth in (20, 44):
    for label, residual in ((f"ResNet-{depth}", True), (f"plain-{depth}", False)):
        errors[label] = train(label, "cifar_resnet", depth=depth, residual=residual)
for label, error in errors.items():
    print(f"{label:10} test error {error:5.1f}%")

# %%
figure, axis = plots.subplots(1, figsize=(6.5, 3.6))
for i, label in enumerate(errors):
    lines = [line for line in read_jsonl(folder / label / "metrics.jsonl") if line["kind"] == "train"]
    style = dict(color="black") if label == "LeNet-5" else dict(color=f"C{(i - 1) // 2}", ls="-" if i % 2 else "--")
    axis.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], label=label, **style)
axis.set(xlabel="epoch", ylabel="training loss, nats", yscale="log", title="Digits, seed 0: plain networks are dashed")
axis.grid(alpha=0.3)
axis.legend(fontsize=8)
figure

# %% [markdown]
# A residual network and its plain twin differ in nothing but additions, which have no parameters. Where the deeper
# plain network is behind on the training part, too, it does not overfit: He et al. (2016) call this degradation.
#
# One seed and 8 epochs show how fast these networks learn, not what depth is worth in the end. `cnn_jax sweep residual`
# asks the question with five seeds and three depths, and draws the gradients.

# %% [markdown]
# ## Where ResNet-50 spends its computation
#
# Each stage halves the map and doubles the channels: a block of it costs as much as one before, and has four times the
# parameters. Of conv4_x there are the most blocks.

# %%
parts = {name: part for name, part in stages(rows("resnet50")).items() if sum(row.macs for row in part)}
figure, axes = plots.subplots(1, 2, figsize=(8, 2.4), sharey=True)
for axis, title, quantity in zip(axes, ("MACs, million", "parameters, million"), ("macs", "parameters"), strict=True):
    axis.barh(list(parts), [sum(getattr(row, quantity) for row in part) / 1e6 for part in parts.values()])
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis="x")
axes[0].invert_yaxis()
figure
