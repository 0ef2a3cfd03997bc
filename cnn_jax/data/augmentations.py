"""The augmentations by name: what config.data.augment may hold. `augment` and `mixing` compute them."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check, check_choice


class Form(NamedTuple):
    """How an augmentation is written: an example, what its numbers mean, and the type and largest value of each."""

    example: str
    meaning: str
    numbers: tuple[tuple[type, float], ...] = ()


ANY = float("inf")
FORMS = {
    "pad_crop": Form("pad_crop:4", "the padding in pixels, an integer above 0", ((int, ANY),)),
    "flip": Form("flip", "flip takes no number"),
    "pca_color": Form("pca_color:0.1", "the standard deviation of the weights, above 0", ((float, ANY),)),
    "random_erasing": Form("random_erasing:0.5", "the probability, above 0 and at most 1", ((float, 1),)),
    "rand_augment": Form(
        "rand_augment:2:9", "the number of operations and their magnitude, integers, 1 to 10", ((int, 10), (int, 10))
    ),
    "mixup": Form("mixup:0.2", "alpha of the weight's distribution Beta(alpha, alpha), above 0", ((float, ANY),)),
    "cutmix": Form("cutmix:1.0", "alpha of the area's distribution Beta(alpha, alpha), above 0", ((float, ANY),)),
}
OWN = re.compile(r"(?P<path>[A-Za-z_][\w.]*:[A-Za-z_]\w*)(?P<numbers>(:[^:]+)*)")  # mypackage.augmentations:rotate:30
MIXING = ("mixup", "cutmix")  # of two examples of a batch: they come last


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
    numbers = [_number(text, *number) for text, number in zip(texts, form.numbers, strict=False)]
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


def _number(text: str, kind: type, highest: float) -> Any:
    """Returns the number that `text` writes, above 0 and at most `highest`, or None."""
    pattern = r"[0-9]{1,9}" if kind is int else r"[0-9]{1,9}(\.[0-9]*)?"
    number = kind(text) if re.fullmatch(pattern, text) else 0
    return number if 0 < number <= highest else None


def check_augment(config: Any) -> None:
    """Raises UserError unless what config.data.augment names exists and can be done to the images."""
    data = config.data
    for place, name in enumerate(data.augment, start=1):
        kind, numbers = parse(name)
        check(
            kind != "pad_crop" or numbers[0] < min(data.image_size),
            f"config.data.augment has {name!r}, which can leave nothing of an image of {data.image_size} pixels",
        )
        channels = {"pca_color": (3,), "rand_augment": (1, 3)}.get(kind, (data.channels,))
        check(
            data.channels in channels,
            f"config.data.augment has {name!r}, which is for images of {' or '.join(map(str, channels))} channels, but "
            f"config.data.channels is {data.channels}: leave it out",
        )
        check(
            kind not in MIXING or place == len(data.augment),
            f"config.data.augment has {name!r} before {data.augment[-1]!r}, but {' or '.join(MIXING)} must come last, "
            "and only one of them",
        )
        check(
            kind not in MIXING or config.batch_size > config.accumulation,
            f"config.data.augment has {name!r}, which mixes examples, but config.batch_size {config.batch_size} in "
            f"config.accumulation {config.accumulation} parts leaves one in each: take larger batches",
        )
