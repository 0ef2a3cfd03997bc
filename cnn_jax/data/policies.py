"""Augmentations that draw from `rand_augment`'s operations: AutoAugment, TrivialAugment and AugMix.

Strengths are those of `rand_augment.apply`, of which 1 is the largest change of AutoAugment. What moves in from outside
of the image is grey.
"""

import jax
import jax.numpy as jnp

from cnn_jax.data.rand_augment import OPERATIONS, apply

SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast", "color", "sharpness")

# ---------------------------------------------------------------- AutoAugment

# Tables 9 and 7 of Cubuk et al. 2019: sub-policies of two operations, each with its probability and its magnitude of 0
# to 9. The authors' names of operations but for `invert`.
TABLES = {
    "imagenet": """
        posterize 0.4 8, rotate 0.6 9        / solarize 0.6 5, autocontrast 0.6 0 / equalize 0.8 0, equalize 0.6 0
        posterize 0.6 7, posterize 0.6 6     / equalize 0.4 0, solarize 0.2 4     / equalize 0.4 0, rotate 0.8 8
        solarize 0.6 3, equalize 0.6 0       / posterize 0.8 5, equalize 1.0 0    / rotate 0.2 3, solarize 0.6 8
        equalize 0.6 0, posterize 0.4 6      / rotate 0.8 8, color 0.4 0          / rotate 0.4 9, equalize 0.6 0
        equalize 0.0 0, equalize 0.8 0       / invert 0.6 0, equalize 1.0 0       / color 0.6 4, contrast 1.0 8
        rotate 0.8 8, color 1.0 2            / color 0.8 8, solarize 0.8 7        / sharpness 0.4 7, invert 0.6 0
        shear_x 0.6 5, equalize 1.0 0        / color 0.4 0, equalize 0.6 0        / equalize 0.4 0, solarize 0.2 4
        solarize 0.6 5, autocontrast 0.6 0   / invert 0.6 0, equalize 1.0 0       / color 0.6 4, contrast 1.0 8
        equalize 0.8 0, equalize 0.6 0
    """,
    "cifar10": """
        invert 0.1 0, contrast 0.2 6         / rotate 0.7 2, translate_x 0.3 9    / sharpness 0.8 1, sharpness 0.9 3
        shear_y 0.5 8, translate_y 0.7 9     / autocontrast 0.5 0, equalize 0.9 0 / shear_y 0.2 7, posterize 0.3 7
        color 0.4 3, brightness 0.6 7        / sharpness 0.3 9, brightness 0.7 9  / equalize 0.6 0, equalize 0.5 0
        contrast 0.6 7, sharpness 0.6 5      / color 0.7 7, translate_x 0.5 8     / equalize 0.3 0, autocontrast 0.4 0
        translate_y 0.4 3, sharpness 0.2 6   / brightness 0.9 6, color 0.2 8      / solarize 0.5 2, invert 0.0 0
        equalize 0.2 0, autocontrast 0.6 0   / equalize 0.2 0, equalize 0.6 0     / color 0.9 9, equalize 0.6 0
        autocontrast 0.8 0, solarize 0.2 8   / brightness 0.1 3, color 0.7 0      / solarize 0.4 5, autocontrast 0.9 0
        translate_y 0.9 9, translate_y 0.7 9 / autocontrast 0.9 0, solarize 0.8 3 / equalize 0.8 0, invert 0.1 0
        translate_y 0.7 9, autocontrast 0.9 0
    """,
}


def policy(name: str) -> list[list[tuple[str, float, int]]]:
    """Returns the sub-policies of AutoAugment: two (operation, probability, magnitude) in each."""
    rows = TABLES[name].strip().replace("\n", "/").split("/")
    words = [[entry.split() for entry in row.split(",")] for row in rows]
    return [[(operation, float(share), int(magnitude)) for operation, share, magnitude in row] for row in words]


def strength(operation: str, magnitude: int) -> float:
    """Returns the strength of a magnitude of AutoAugment, as in torchvision: 9 is the largest."""
    if operation == "invert":  # it is solarize from 0 on
        return 1.0
    part = magnitude / 9
    return 1 - 255 / 256 * (1 - part) if operation == "solarize" else part


def auto_augment(key: jax.Array, image: jax.Array, name: str) -> jax.Array:
    """Applies one of the 25 sub-policies that Cubuk et al. 2019 found for a data set, "imagenet" or "cifar10"."""
    rows = policy(name)
    numbers = [[OPERATIONS.index("solarize" if op == "invert" else op) for op, _, _ in row] for row in rows]
    shares = jnp.array([[share for _, share, _ in row] for row in rows])
    strengths = jnp.array([[strength(op, magnitude) for op, _, magnitude in row] for row in rows])
    row_key, coin_key, sign_key = jax.random.split(key, 3)
    row = jax.random.randint(row_key, (), 0, len(rows))
    happens = jax.random.uniform(coin_key, (2,)) < shares[row]
    signs = 2 * jax.random.randint(sign_key, (2,), 0, 2) - 1
    for i in range(2):
        number = jnp.where(happens[i], jnp.array(numbers)[row, i], OPERATIONS.index("identity"))
        image = apply(image, number, signs[i] * strengths[row, i])
    return image


# ---------------------------------------------------------------- TrivialAugment

WIDE = {  # the largest strengths of the wide space, where they are not 1
    **{"shear_x": 0.99 / 0.3, "shear_y": 0.99 / 0.3, "rotate": 135 / 30, "posterize": 6 / 4},
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), 0.99 / 0.9),
}
BINS = 31


def trivial_augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """Applies one operation at a random magnitude (Müller & Hutter 2021, the wide space), as torchvision does."""
    operation_key, bin_key, sign_key = jax.random.split(key, 3)
    number = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
    part = jax.random.randint(bin_key, (), 0, BINS) / (BINS - 1)
    sign = 2 * jax.random.randint(sign_key, (), 0, 2) - 1
    return apply(image, number, sign * wide_strength(image.shape, number, part))


def wide_strength(shape: tuple[int, ...], number: jax.Array | int, part: jax.Array | float) -> jax.Array:
    """Returns the strength of operation `number` at a part, 0 to 1, of the wide space's largest magnitude."""
    height, width, _ = shape
    # Translations go up to 32 pixels, whatever the size; the little more keeps what is rounded down.
    largest = WIDE | {f"translate_{axis}": 1.000001 * 32 / (150 / 331 * n) for axis, n in (("x", width), ("y", height))}
    scaled = jnp.array([largest.get(operation, 1.0) for operation in OPERATIONS])[number] * part
    return jnp.where(number == OPERATIONS.index("solarize"), 1 - 255 / 256 * (1 - part), scaled)


# ---------------------------------------------------------------- AugMix

MIXED = (*("autocontrast", "equalize", "posterize", "rotate", "solarize"), *SIGNED[:4])
WIDTH, DEPTH = 3, 3  # chains, and the most operations of one


def augmix(key: jax.Array, image: jax.Array, severity: int) -> jax.Array:
    """Mixes one image with a mixture of three chains of one to three operations (Hendrycks et al. 2020, algorithm 1).

    Weights are from Dirichlet(1, 1, 1) and Beta(1, 1); a magnitude is uniform in [0.1, severity], of 10. It has
    the nine operations of the authors' code, without those of color. The consistency loss over three mixtures of the
    paper is not a part of it.
    """
    key, weight_key, own_key = jax.random.split(key, 3)
    exponentials = jax.random.exponential(weight_key, (WIDTH,))
    weights, own = exponentials / exponentials.sum(), jax.random.uniform(own_key)
    mixture = jnp.zeros(image.shape, jnp.float32)
    for i in range(WIDTH):
        chain_key, depth_key = jax.random.split(jax.random.fold_in(key, i))
        depth, chain = jax.random.randint(depth_key, (), 1, DEPTH + 1), image
        for j in range(DEPTH):
            number, size = _mixed_operation(jax.random.fold_in(chain_key, j), severity)
            chain = apply(chain, jnp.where(j < depth, number, OPERATIONS.index("identity")), size)
        mixture += weights[i] * chain
    return jnp.round(own * image + (1 - own) * mixture).astype(image.dtype)


def _mixed_operation(key: jax.Array, severity: int) -> tuple[jax.Array, jax.Array]:
    """Returns (number of a random operation, its strength)."""
    operation_key, level_key, sign_key = jax.random.split(key, 3)
    chosen = jax.random.randint(operation_key, (), 0, len(MIXED))
    level = jax.random.uniform(level_key, minval=0.1, maxval=severity) / 10
    sign = 2 * jax.random.randint(sign_key, (), 0, 2) - 1
    # Posterize leaves 4 bits or fewer, and translations reach a third of the side.
    sizes = {"posterize": 1 + jnp.floor(4 * level) / 4} | dict.fromkeys(
        ("translate_x", "translate_y"), level * 331 / 450
    )
    size = jnp.stack([jnp.asarray(sizes.get(operation, level)) for operation in MIXED])[chosen]
    return jnp.array([OPERATIONS.index(operation) for operation in MIXED])[chosen], sign * size
