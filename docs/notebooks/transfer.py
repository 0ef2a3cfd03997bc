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
# # Transfer learning on your own photos
#
# You have a few photos of each of a few things and want a network that tells them apart. That is too little to learn
# from scratch, but a network that was trained on something else knows edges, colors and parts already.
#
# Put your photos into a folder `photos` next to this notebook, with a folder for each class: `photos/cats/a.jpg`,
# `photos/dogs/b.jpg`, ... Where there is none, the notebook draws pictures of four things itself.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
from IPython import display
from PIL import Image, ImageDraw
from rich.console import Console

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.core import compilation_cache
from cnn_jax.display import plots
from cnn_jax.pretrained.source import open_source
from cnn_jax.sweeping.intervals import mean
from cnn_jax.training import finetuning
from cnn_jax.visualization import visualize_network
from cnn_jax.visualization.pictures import from_files

compilation_cache.enable()
runs = Path(tempfile.mkdtemp())
photos = Path("photos")

# %%


def draw(kind, random):
    """Returns a picture of 64x64 pixels: a thing of any color, size and place, on any ground, under noise."""
    picture = Image.new("RGB", (64, 64), tuple(random.integers(110, 256, 3)))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, random.integers(38, 58), 64, 64), fill=tuple(random.integers(0, 160, 3)))
    color, other = (tuple(random.integers(0, 256, 3)) for _ in range(2))
    size = random.uniform(1.2, 2.0)
    x, y = random.uniform(26, 38, 2)

    def at(*points):
        return [(x + size * dx, y + size * dy) for dx, dy in points]

    if kind == "house":
        pen.rectangle(at((-10, -4), (10, 12)), fill=color)
        pen.polygon(at((-13, -4), (13, -4), (0, -16)), fill=other)
    elif kind == "tree":
        pen.rectangle(at((-2, 0), (2, 14)), fill=other)
        pen.ellipse(at((-10, -16), (10, 4)), fill=color)
    elif kind == "boat":
        pen.polygon(at((-14, 4), (14, 4), (9, 11), (-9, 11)), fill=color)
        pen.polygon(at((0, 2), (0, -16), (11, 2)), fill=other)
    else:
        for leg in ((-9, 4), (-5, 4), (5, 4), (9, 4)):
            pen.line(at(leg, (leg[0], 13)), fill=color, width=2)
        pen.ellipse(at((-12, -5), (12, 6)), fill=color)
        pen.ellipse(at((6, -13), (14, -4)), fill=color)
    noisy = np.asarray(picture) + random.normal(0, 8, (64, 64, 3))
    return Image.fromarray(np.uint8(np.clip(noisy, 0, 255)))


if not photos.is_dir():
    photos, random = runs / "photos", np.random.default_rng(0)
    for kind in ("animal", "boat", "house", "tree"):
        (photos / kind).mkdir(parents=True)
        for i in range(60):
            draw(kind, random).save(photos / kind / f"{i}.png")
classes = sorted(folder.name for folder in photos.iterdir() if folder.is_dir())
figure, axes = plots.subplots(len(classes), 8, squeeze=False, figsize=(8, 1.05 * len(classes)))
for row, kind in zip(axes, classes, strict=True):
    for axis, file in zip(row, sorted((photos / kind).iterdir()), strict=False):
        axis.imshow(Image.open(file))
    for axis in row:
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(kind)
figure

# %% [markdown]
# ## Three ways to train
#
# The network is the bundled ResNet-20, trained on the photos of CIFAR-10. Its last layer names ten other things and is
# replaced by a new one. Then there are three choices: train the new layer only (for few data), train everything from
# the trained weights (for more), or start from nothing to see what the transfer is worth. 20% of the pictures are for
# training, and 70% are the test. Each choice is tried with three seeds, which also decide who is in which part.
#
# On the command line the first one is `cnn_jax finetune bundled:resnet20-cifar10 --data=folder
# --config.data.dir=photos --regime=head`.

# %%
SOURCE = "bundled:resnet20-cifar10"
REGIMES = {"new layer only": (SOURCE, "head"), "everything, from it": (SOURCE, "full"), "from scratch": ("", "full")}
SEEDS = range(3)
source = open_source(SOURCE)


def train(name, seed):
    """Returns the test error of one run, %."""
    config = recipes.load("finetune", "resnet20,folder")
    finetuning.adapt(config, source, set())  # the image size and normalization of the trained network
    config.init_from, config.trainable = REGIMES[name]
    config.seed, config.duration, config.batch_size = seed, "120 steps", 16
    config.data.dir, config.data.train, config.data.validation, config.data.test = str(photos), "20%", "10%", "70%"
    config.data.train_crop, config.data.augment = "resize", ("pad_crop:4", "flip")
    config.eval.every = config.checkpoint.every = "120 steps"
    return 100 * cnn_jax.train(config, runs / f"{name}-{seed}", console=Console(quiet=True))["test"]["error"]


errors = {name: [train(name, seed) for seed in SEEDS] for name in REGIMES}
figure, axis = plots.subplots(1, figsize=(6.5, 2.2))
for position, (name, found) in enumerate(errors.items()):
    summary = mean(found)
    print(f"{name:20} {'  '.join(f'{error:5.1f}' for error in found)}   mean {summary.mean:5.1f}%")
    axis.plot(found, np.full(len(found), position), "o", color=f"C{position}")
    axis.plot(summary.mean, position, "|", color="black", ms=18)
axis.set_yticks(range(len(errors)), list(errors))
axis.set(xlabel="test error, %", xlim=(0, None), ylim=(2.5, -0.5))
axis.set_title("Each point is a seed, each bar a mean")
axis.grid(alpha=0.3)
figure

# %% [markdown]
# ## What does it look at?
#
# A class activation map shows which places voted for a class. A network that looks at the background has learned
# something else than you meant. `cnn_jax visualize cam` draws the same.

# %%
best = min(REGIMES, key=lambda name: np.mean(errors[name]))
predictor = cnn_jax.load(runs / f"{best}-0")
chosen = [str(sorted((photos / kind).iterdir())[0]) for kind in classes[:6]]
visualize_network.cam(predictor, from_files(predictor, chosen), visualize_network.DrawOptions(), runs / "cam.png")
display.Image(runs / "cam.png")

# %% [markdown]
# Some of these pictures were in the training part. On one that is new (here the first picture of the first class,
# mirrored and turned) the network says:

# %%
new = Image.open(chosen[0]).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(10)
shares = np.asarray(predictor.probabilities([new]))[0]
print(f"{best}:", ", ".join(f"{kind} {share:.0%}" for kind, share in zip(predictor.classes, shares, strict=True)))

# %% [markdown]
# ## What may be concluded
#
# - The order of the three choices holds for these pictures, 120 steps and one learning rate for each choice. With more
#   pictures or longer training, training everything or from scratch may win.
# - Pictures that a program draws are not photos. Where a folder of photos was there, the figures above are of those.
# - Three seeds show the size of the noise, no more. `experiments/transfer.py` asks the question with five, and over the
#   number of pictures: `cnn_jax sweep transfer`.
