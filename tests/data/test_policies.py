"""AutoAugment, TrivialAugment and AugMix: torchvision's tables, and how operations are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import augment, policies, rand_augment
from cnn_jax.data.rand_augment import OPERATIONS
from torchvision_models import import_models

SIDE = 40
apply = jax.jit(rand_augment.apply)
# torchvision's names of operations.
THEIRS = dict(
    identity="Identity", shear_x="ShearX", shear_y="ShearY", translate_x="TranslateX", translate_y="TranslateY",
    rotate="Rotate", brightness="Brightness", contrast="Contrast", posterize="Posterize", solarize="Solarize",
    autocontrast="AutoContrast", equalize="Equalize", color="Color", sharpness="Sharpness", invert="Invert",
)  # fmt: skip


@pytest.fixture(scope="module")
def transforms():
    import_models()
    from torchvision import transforms

    return transforms


def photograph():
    y, x, c = np.mgrid[:SIDE, :SIDE, :3]
    smooth = 110 + 80 * np.sin(x / 9 + c) * np.cos(y / 7 - c)
    return np.clip(smooth + np.random.default_rng(0).normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def by_torchvision(image, operation, magnitude):
    """Returns what torchvision's operation makes of an image, with our grey outside of it."""
    import torch
    from torchvision.transforms import InterpolationMode, autoaugment

    tensor = torch.tensor(image).permute(2, 0, 1)
    made = autoaugment._apply_op(tensor, THEIRS[operation], magnitude, InterpolationMode.NEAREST, [128.0] * 3)
    return made.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_the_policies_are_those_of_torchvision(transforms, name):
    names = transforms.AutoAugmentPolicy
    module = transforms.AutoAugment(names.IMAGENET if name == "imagenet" else names.CIFAR10)
    single = ("autocontrast", "equalize", "invert")  # have no magnitude
    ours = [
        tuple((THEIRS[op], share, None if op in single else number) for op, share, number in row)
        for row in policies.policy(name)
    ]
    assert ours == [tuple(row) for row in module.policies] and len(ours) == 25


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "identity"] + ["invert"])
def test_magnitudes_of_auto_augment_are_those_of_torchvision(transforms, operation):
    image = photograph()
    space = transforms.AutoAugment()._augmentation_space(10, (SIDE, SIDE))
    magnitudes, signed = space[THEIRS[operation]]
    number = OPERATIONS.index("solarize" if operation == "invert" else operation)
    assert signed == (operation in policies.SIGNED)
    for i in (0, 4, 9) if magnitudes.ndim else (0,):
        magnitude = float(magnitudes[i]) if magnitudes.ndim else 0.0
        for sign in (1, -1) if signed else (1,):
            made = apply(jnp.asarray(image), number, sign * policies.strength(operation, i))
            candidates = [by_torchvision(image, operation, sign * magnitude)]
            if operation.startswith(("shear", "translate", "rotate")):  # the other way round, as often
                candidates.append(by_torchvision(image, operation, -sign * magnitude))
            check_nearest(made, candidates, (operation, i, sign))


def check_nearest(made, candidates, message):
    """Of two pixels as near, either may be taken; enhanced values are rounded down from floats of other roundings."""
    errors = [np.mean(np.abs(np.asarray(made).astype(int) - other).max(-1) > 1) for other in candidates]
    assert min(errors) < 0.02, (message, errors)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "identity"])
def test_magnitudes_of_trivial_augment_are_those_of_torchvision(transforms, operation):
    image = photograph()
    magnitudes, signed = transforms.TrivialAugmentWide()._augmentation_space(31)[THEIRS[operation]]
    number = OPERATIONS.index(operation)
    for i in (0, 7, 15, 30) if magnitudes.ndim else (0,):
        magnitude = round(float(magnitudes[i]), 4) if magnitudes.ndim else 0.0  # 16 pixels are 15.999999 there
        size = policies.wide_strength(image.shape, number, i / 30)
        for sign in (1, -1) if signed else (1,):
            made = apply(jnp.asarray(image), number, sign * size)
            candidates = [by_torchvision(image, operation, s * magnitude) for s in ((sign, -sign) if signed else (1,))]
            moves = operation.startswith(("shear", "translate", "rotate"))
            check_nearest(made, candidates if moves else candidates[:1], (operation, i, sign))


def draws(name, image, count):
    images = jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))
    return np.asarray(jax.jit(augment.augment, static_argnums=3)(jax.random.key(0), images, jnp.arange(count), (name,)))


def test_all_sub_policies_and_both_coins_are_drawn():
    made = draws("auto_augment:cifar10", photograph()[:24, :24], 600)
    assert len({one.tobytes() for one in made}) > 60
    # Sub-policy 25 of cifar10 and 6 others move pixels by `translate_y`: some images have grey rows.
    grey = (made == 128).all((2, 3)).any(1)
    assert 0.05 < grey.mean() < 0.5


def test_trivial_augment_draws_operations_and_magnitudes_alike():
    made = draws("trivial_augment", photograph(), 1500)
    same = (made == photograph()).all((1, 2, 3)).mean()
    # The identity, the first magnitude of ten operations, and posterize with all bits.
    assert 1 / 14 < same < 0.16
    assert len({one.tobytes() for one in made}) > 300


@pytest.mark.slow
def test_augmix_is_a_mean_of_the_image_and_its_chains():
    image = photograph()
    made = draws("augmix:3", image, 200)
    assert made.dtype == np.uint8 and len({one.tobytes() for one in made}) > 150
    # Its weight for the image itself is uniform: some mixtures are nearly the image, and all are near it.
    distance = np.abs(made.astype(float) - image).mean((1, 2, 3))
    assert distance.min() < 2 and 2 < distance.mean() < 40
    strong = np.abs(draws("augmix:10", image, 200).astype(float) - image).mean()
    assert strong > 1.2 * distance.mean()


def test_an_augmix_of_identities_is_the_image(monkeypatch):
    monkeypatch.setattr(policies, "apply", lambda image, *_: image)
    made = policies.augmix(jax.random.key(0), jnp.asarray(photograph()), 3)
    np.testing.assert_array_equal(made, photograph())


@pytest.mark.slow
def test_chains_have_one_to_three_operations(monkeypatch):
    monkeypatch.setattr(policies, "apply", lambda image, number, _: image + (number != 0).astype(image.dtype))
    keys = jax.random.split(jax.random.key(0), 300)
    zero = jnp.zeros((1, 1, 1), jnp.float32)
    added = jax.vmap(lambda key: policies.augmix(key, zero, 3))(keys)
    # Rounded means of depths 1 to 3, between the image and the chains.
    assert set(np.unique(np.asarray(added))) == {0, 1, 2, 3} or set(np.unique(np.asarray(added))) == {0, 1, 2}
