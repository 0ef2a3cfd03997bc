"""Data sets that the program draws: X's and O's, sequences with a motif, and clips of moving digits.

source          example             classes                       chance, %    linear, %
xo              image 9x9x1         X, O                               50.0         70.7
sequences       sequence 128x1      10 motifs                          10.0         12.4
moving_digits   clip 16x16x16x1     10 digits x 4 directions            2.5         26.8

"linear" is the test accuracy of scikit-learn's logistic regression on the values of the first 4,000 training examples,
with the fields of the table of data sets; of moving digits it is near the 25% of knowing the digit and guessing the
direction (that takes minutes). To repeat it:

    python -c "from cnn_jax.config import fields; from cnn_jax.data import sources; \
print(sources.linear_accuracy(sources.open_dataset(fields.get_config('xo').data)))"

Example i of a part depends on (part, i) and the fields alone, its class is i modulo the number of classes. As with
other data sets, the seed of a run does not change them. Random numbers are uniform only: NumPy draws those from
Philox by integer arithmetic, the same on every machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.core.errors import check
from cnn_jax.data.dataset import Dataset, check_num_images
from cnn_jax.data.sources.digits import scans

PARTS = {"train": 0, "validation": 1, "test": 2}  # the key of each part's random numbers
Scans = tuple[np.ndarray, np.ndarray]  # (images uint8 [N, 8, 8, 1], labels int [N])


@dataclass
class Drawn:
    """Examples of one part, drawn when they are read."""

    config: Any  # config.data
    part: str
    num_classes: int
    num_examples: int
    scans: Scans | None = None  # of the digits, for moving ones

    def __len__(self) -> int:
        return self.num_examples

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._example(int(i)) for i in indices]

    def _example(self, index: int) -> dict[str, Any]:
        random = np.random.Generator(np.random.Philox(key=[PARTS[self.part], index]))
        label = index % self.num_classes
        if self.scans is None:
            draw = {"xo": draw_xo, "sequences": draw_sequence}[self.config.source]
            return {"image": draw(random, label, self.config), "label": label}
        return {"image": draw_clip(random, label, self.config, self.scans), "label": label}


DESCRIPTIONS = {
    "xo": "drawn X's and O's",
    "sequences": "drawn sequences, each with one of 10 motifs",
    "moving_digits": "scikit-learn's handwritten digits, moving",
}


def class_names(config: Any) -> list[str]:
    """Returns the names of the classes, in the order of the labels."""
    if config.source == "moving_digits":
        directions = list(DIRECTIONS)[: _directions(config)]
        return [f"{digit} {direction}" for digit in range(10) for direction in directions]
    return list({"xo": STROKES, "sequences": MOTIFS}[config.source])


def check_size(config: Any) -> None:
    """Raises UserError where config.data.image_size leaves no room to draw in."""
    smallest = {"xo": (5, 5), "sequences": (32,), "moving_digits": (2, 16, 16)}[config.source]
    check(
        all(size >= least for size, least in zip(config.image_size, smallest, strict=True)),
        f"config.data.image_size is {config.image_size}, but {config.source!r} needs at least {smallest}",
    )


def _quantized(values: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as uint8 0..255, with one channel; what is outside is cut off."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)[..., None]


# ---------------------------------------------------------------- X's and O's


def _lines(*points: tuple[int, int]) -> np.ndarray:
    """Returns the line from each point to the next one: [lines, 2 ends, (row, column)]."""
    return np.stack([points[:-1], points[1:]], axis=1).astype(np.float64)


# Lines in pixels of a 9x9 image from its center. They run through centers of pixels, so that without any variation the
# images are those of the lecture, black and white: the X with strokes of 7 pixels, the O with 16.
STROKES = {
    "X": np.concatenate([_lines((-3, -3), (3, 3)), _lines((-3, 3), (3, -3))]),
    "O": _lines((-3, -1), (-3, 1), (-1, 3), (1, 3), (3, 1), (3, -1), (1, -3), (-1, -3), (-3, -1)),
}
FADING = 0.7  # pixels of a 9x9 image over which the edge of a stroke fades: less than to a diagonal neighbor's line


def draw_xo(random: np.random.Generator, label: int, config: Any) -> np.ndarray:
    """Draws an X (label 0) or an O (1), white on black: uint8 [H, W, 1].

    The shape is shrunk, turned about its center and moved, and its strokes are widened; then comes the noise. The
    brightness of a pixel falls with its distance from the nearest stroke.
    """
    height, width = config.image_size
    down, right, turn, shrinking, widening = random.random(5)
    angle, size = math.radians((2 * turn - 1) * config.rotation), 1 - shrinking * config.scale
    pixel = 9 / min(height, width)  # in pixels of a 9x9 image
    row = (np.arange(height)[:, None, None] - (height - 1) / 2) * pixel - (2 * down - 1) * config.shift
    column = (np.arange(width)[None, :, None] - (width - 1) / 2) * pixel - (2 * right - 1) * config.shift
    # Where the pixel stands on the shape before it was turned and shrunk.
    y = (row * math.cos(angle) - column * math.sin(angle)) / size
    x = (row * math.sin(angle) + column * math.cos(angle)) / size
    start, end = np.moveaxis(list(STROKES.values())[label], 1, 0)
    (y0, x0), (dy, dx) = start.T, (end - start).T
    along = np.clip(((y - y0) * dy + (x - x0) * dx) / (dy * dy + dx * dx), 0, 1)  # of the nearest point of each line
    distance = size * np.sqrt((y - y0 - along * dy) ** 2 + (x - x0 - along * dx) ** 2).min(axis=-1)
    ink = np.clip(1 - (distance - widening * config.thickness) / FADING, 0, 1)
    return _quantized(ink + config.noise * (2 * random.random(ink.shape) - 1))


# ---------------------------------------------------------------- sequences


def _wave(cycles: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * cycles)


# Functions of the place within the motif, in (0, 1), with values in [-1, 1]. None is another one with changed sign.
MOTIFS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sine": lambda u: _wave(3 * u),
    "square": lambda u: np.sign(_wave(3 * u)),
    "sawtooth": lambda u: 2 * (3 * u % 1) - 1,
    "rising chirp": lambda u: _wave(u + 2 * u**2),
    "falling chirp": lambda u: _wave((1 - u) + 2 * (1 - u) ** 2),
    "swell": lambda u: u * _wave(3 * u),
    "decay": lambda u: (1 - u) * _wave(3 * u),
    "arch": lambda u: 4 * u * (1 - u),
    "ramp": lambda u: u,
    "step": lambda u: np.where(u < 0.5, 1.0, -1.0),
}


def draw_sequence(random: np.random.Generator, label: int, config: Any) -> np.ndarray:
    """Draws motif `label` somewhere in noise on a base line that drifts: uint8 [L, 1]; 127.5 is zero, 51 is one.

    The motif takes a quarter of the sequence. Its height is in [0.5, 1], upwards or downwards, and its place anywhere:
    so the mean sequence is the same for all classes, and no single value tells one from another.
    """
    (length,) = config.image_size
    place, height, sign, slope, bend = random.random(5)
    size = length // 4
    start = int(place * (length - size + 1))
    time = np.linspace(-1, 1, length)
    values = config.drift * ((2 * slope - 1) * time + (2 * bend - 1) * (2 * time**2 - 1))
    values += config.noise * (2 * random.random(length) - 1)
    motif = list(MOTIFS.values())[label]((np.arange(size) + 0.5) / size)
    values[start : start + size] += (0.5 + 0.5 * height) * (1 if sign < 0.5 else -1) * motif
    return _quantized(0.5 + values / 5)


# ---------------------------------------------------------------- moving digits

# Pixels down and to the right from one frame to the next.
DIRECTIONS = {
    "right": (0, 1),
    "left": (0, -1),
    "down": (1, 0),
    "up": (-1, 0),
    "down right": (1, 1),
    "up left": (-1, -1),
    "down left": (1, -1),
    "up right": (-1, 1),
}


def _directions(config: Any) -> int:
    return 8 if config.num_classes == 80 else 4


def draw_clip(random: np.random.Generator, label: int, config: Any, scans: Scans) -> np.ndarray:
    """Draws one of `scans` moving by a pixel in every frame: uint8 [T, H, W, 1].

    label: digit * number of directions + direction. The digit is enlarged to three quarters of the canvas, starts
    anywhere, and where it has reached the border it begins again at the opposite one. So every place is as likely in
    any frame of any class: a frame alone does not tell the direction. A clip played backwards is one of the opposite
    direction.
    """
    frames, height, width = config.image_size
    digit, direction = divmod(label, _directions(config))
    which, *start = random.random(3)
    images, labels = scans
    chosen = np.flatnonzero(labels == digit)
    side = min(height, width) * 3 // 4
    scan = Image.fromarray(images[chosen[int(which * len(chosen))], ..., 0])
    scan = np.asarray(scan.resize((side, side), Image.Resampling.BILINEAR)) / 255
    places = [height - side + 1, width - side + 1]
    steps = list(DIRECTIONS.values())[direction]
    clip = np.zeros((frames, height, width))
    for time, frame in enumerate(clip):
        top, left = ((int(u * n) + step * time) % n for u, n, step in zip(start, places, steps, strict=True))
        frame[top : top + side, left : left + side] = scan
    return _quantized(clip + config.noise * (2 * random.random(clip.shape) - 1))


def open_dataset(config: Any, seed: int) -> Dataset:
    check_num_images(config)
    check_size(config)
    names = class_names(config)
    digits = scans(config) if config.source == "moving_digits" else {}
    parts = {
        part: Drawn(config, part, len(names), size, digits.get(part))
        for part, size in zip(PARTS, config.num_images, strict=True)
    }
    return Dataset(config.source, parts, names, DESCRIPTIONS[config.source])
