"""The augmentations by name: what config.data.augment may hold. `augment` computes them."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check, check_choice


class Number(NamedTuple):
    """A number of an augmentation: its type, its largest value, and whether it may be 0."""

    kind: type = float
    highest: float = float("inf")
    zero: bool = False


class Form(NamedTuple):
    """How an augmentation is written: an example, what its numbers mean, and what they are; a tuple of words: a choice.

    channels: of the images that it takes; (): any.
    """

    example: str
    meaning: str
    numbers: tuple[Number | tuple[str, ...], ...] = ()
    channels: tuple[int, ...] = ()


GREY_OR_COLOR = (1, 3)
PROBABILITY = Number(highest=1)
POLICIES = ("imagenet", "cifar10")
FORMS = {
    "pad_crop": Form("pad_crop:4", "the padding in pixels, an integer above 0", (Number(int),)),
    "flip": Form("flip", "flip takes no number"),
    "vertical_flip": Form("vertical_flip", "vertical_flip takes no number"),
    "rotation": Form("rotation:15", "the largest angle in degrees, above 0 and at most 180", (Number(highest=180),)),
    "pca_color": Form("pca_color:0.1", "the standard deviation of the weights, above 0", (Number(),), (3,)),
    "color_jitter": Form(
        "color_jitter:0.4:0.4:0.4:0.1",
        "the largest changes of brightness, contrast, saturation, and hue (at most 0.5), 0 or more",
        (*[Number(zero=True)] * 3, Number(highest=0.5, zero=True)),
        GREY_OR_COLOR,
    ),
    "grayscale": Form("grayscale:0.2", "the probability, above 0 and at most 1", (PROBABILITY,), GREY_OR_COLOR),
    "gaussian_blur": Form(
        "gaussian_blur:0.5:9:2.0",
        "the probability, the side of the window in pixels, odd, and the largest standard deviation in pixels",
        (PROBABILITY, Number(int), Number()),
    ),
    "random_erasing": Form("random_erasing:0.5", "the probability, above 0 and at most 1", (PROBABILITY,)),
    "rand_augment": Form(
        "rand_augment:2:9",
        "the number of operations and their magnitude, integers, 1 to 10",
        (Number(int, 10), Number(int, 10)),
        GREY_OR_COLOR,
    ),
    "auto_augment": Form("auto_augment:imagenet", f"the policy, {' or '.join(POLICIES)}", (POLICIES,), GREY_OR_COLOR),
    "trivial_augment": Form("trivial_augment", "trivial_augment takes no number", (), GREY_OR_COLOR),
    "augmix": Form("augmix:3", "the severity, an integer, 1 to 10", (Number(int, 10),), GREY_OR_COLOR),
    "mixup": Form("mixup:0.2", "alpha of the weight's distribution Beta(alpha, alpha), above 0", (Number(),)),
    "cutmix": Form("cutmix:1.0", "alpha of the area's distribution Beta(alpha, alpha), above 0", (Number(),)),
}
OWN = re.compile(r"(?P<path>[A-Za-z_][\w.]*:[A-Za-z_]\w*)(?P<numbers>(:[^:]+)*)")  # mypackage.augmentations:rotate:30
MIXING = ("mixup", "cutmix")  # of two examples of a batch: they come last; of both, one is drawn for each batch


def parse(name: Any) -> tuple[str, tuple[Any, ...]]:
    """Returns (kind, numbers) of an augmentation: ("rand_augment", (2, 9)) of "rand_augment:2:9".

    Raises:
      UserError: no such kind, or its numbers are not as `FORMS` says.
    """
    check(isinstance(name, str), f"config.data.augment has {name!r}, but must hold names such as 'flip'")
    kind, *texts = name.split(":")
    if kind not in FORMS and (own := OWN.fullmatch(name)):
        return own["path"], _own_numbers(name, own["path"], own["numbers"].split(":")[1:])
    check_choice("config.data.augment", kind, FORMS)
    form = FORMS[kind]
    numbers = [_number(text, number) for text, number in zip(texts, form.numbers, strict=False)]
    check(
        len(texts) == len(form.numbers) and None not in numbers,
        f"config.data.augment has {name!r}, but must be as in {form.example!r}: {form.meaning}",
    )
    return kind, tuple(numbers)


def function_of(path: str) -> Callable[..., Any]:
    """Returns an augmentation of the user's own: (key, image uint8 [H, W, C], *numbers) -> image, in JAX."""
    return imports.load(path, field="config.data.augment")


def _own_numbers(name: str, path: str, texts: Sequence[str]) -> tuple[float, ...]:
    taken = list(inspect.signature(function_of(path)).parameters.values())[2:]
    needed = [p for p in taken if p.default is p.empty]
    check(
        len(needed) <= len(texts) <= len(taken),
        f"config.data.augment has {name!r} with {len(texts)} numbers, but {path} takes "
        f"{', '.join(p.name for p in taken) or 'none'}",
    )
    try:
        return tuple(int(text) if re.fullmatch(r"-?\d+", text) else float(text) for text in texts)
    except ValueError:
        raise UserError(f"config.data.augment has {name!r}, but {', '.join(texts)} must be numbers") from None


def _number(text: str, form: Number | tuple[str, ...]) -> Any:
    """Returns the number, or the word, that `text` writes; None if it is not as its form says."""
    if not isinstance(form, Number):
        return text if text in form else None
    pattern = r"[0-9]{1,9}" if form.kind is int else r"[0-9]{1,9}(\.[0-9]*)?"
    number = form.kind(text) if re.fullmatch(pattern, text) else -1
    return number if 0 < number <= form.highest or (number == 0 and form.zero) else None


def check_augment(config: Any) -> None:
    """Raises UserError unless what config.data.augment names exists and can be done to the images."""
    data = config.data
    for place, name in enumerate(data.augment, start=1):
        kind, numbers = parse(name)
        check(
            kind != "pad_crop" or numbers[0] < min(data.image_size),
            f"config.data.augment has {name!r}, which can leave nothing of an image of {data.image_size} pixels",
        )
        check(
            kind != "gaussian_blur" or (numbers[1] % 2 == 1 and numbers[1] // 2 < min(data.image_size)),
            f"config.data.augment has {name!r}, but the window must have an odd side, below twice that of the images: "
            f"{data.image_size} pixels",
        )
        channels = FORMS[kind].channels if kind in FORMS else ()
        check(
            not channels or data.channels in channels,
            f"config.data.augment has {name!r}, which is for images of {' or '.join(map(str, channels))} channels, but "
            f"config.data.channels is {data.channels}: leave it out",
        )
        after = data.augment[place:]
        check(
            kind not in MIXING or {parse(other)[0] for other in after} <= {*MIXING} - {kind},
            f"config.data.augment has {name!r} before {data.augment[-1]!r}, but {' or '.join(MIXING)} must come last, "
            "each of them once",
        )
        check(
            kind not in MIXING or config.batch_size > config.accumulation,
            f"config.data.augment has {name!r}, which mixes examples, but config.batch_size {config.batch_size} in "
            f"config.accumulation {config.accumulation} parts leaves one in each: take larger batches",
        )
