"""What a part is where a data set has splits of any names, or none: "train", "train[:90%]", or a share such as "70%".

A share is of all examples in one fixed random order, which depends on their number only.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.data.dataset import PARTS, check_disjoint

# What the split of each part is called, the first that is there.
NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
GIVE_SHARES = " ".join(f"--config.data.{part}={share}%" for part, share in zip(PARTS, (70, 10, 20), strict=True))
SPLIT = re.compile(r"(?P<name>[^\[\]%]*?)(?:\[(?:(?P<start>\d+)%)?:(?:(?P<stop>\d+)%)?\])?")

Range = tuple[str, int, int]  # name of the split ("": all examples), from %, to %


def choose(written: Mapping[str, str], names: Sequence[str]) -> dict[str, str] | None:
    """Returns what each part is: what config.data names, and for empty names what the splits are called.

    test is the split test, else val; validation is val where that is not the test part, else the last tenth of train.
    None if a part is left open and there is no split for it.
    """
    if all(written.values()):
        return dict(written)
    there = {part: next((name for name in known if name in names), "") for part, known in NAMES.items()}
    train = there["train"]
    if not train or not (there["test"] or there["validation"]):
        return None
    test = written["test"] or there["test"] or there["validation"]
    own = there["validation"] and not test.startswith(there["validation"])
    validation = written["validation"] or (there["validation"] if own else f"{train}[90%:]")
    return {
        "train": written["train"] or (f"{train}[:90%]" if validation == f"{train}[90%:]" else train),
        "validation": validation,
        "test": test,
    }


def all_shares(written: Mapping[str, str]) -> dict[str, Range] | None:
    """Returns the range of each part where all parts are shares, such as 70%, or None.

    Raises:
      UserError: the shares do not add up to 100%.
    """
    if not all(re.fullmatch(r"\d+%", text) for text in written.values()):
        return None
    shares = [int(text[:-1]) for text in written.values()]
    check(sum(shares) == 100, f"config.data has the shares {', '.join(written.values())}: they must add up to 100%")
    ends = [sum(shares[:i]) for i in range(len(shares) + 1)]
    return {part: ("", ends[i], ends[i + 1]) for i, part in enumerate(written)}


def parse(part: str, text: str) -> Range | None:
    """Returns the range that "NAME", "NAME[:90%]" or "NAME[90%:]" is, or None if it has another form.

    Raises:
      UserError: it is empty.
    """
    match = SPLIT.fullmatch(text)
    if match is None or not match["name"]:
        return None
    start, stop = int(match["start"] or 0), int(match["stop"] or 100)
    check(0 <= start < stop <= 100, f"config.data.{part} is {text!r}, but must be from a lower to a higher share")
    return match["name"], start, stop


def choose_ranges(
    config: Any, names: Sequence[str], there: str, way_out: str
) -> tuple[dict[str, str], dict[str, Range]]:
    """Returns what the parts of config.data are where a data set has the splits `names`: in words, and as ranges.

    Args:
      there: what has these splits, for messages: "FILE has the splits train, test". way_out: what to give instead.

    Raises:
      UserError: config.data names no split, leaves a part open for which there is none, or two parts share examples.
    """
    written = choose({part: config[part].strip() for part in PARTS}, names)
    if written is None:
        raise UserError(f"{there}: say which part is what, such as {way_out}")
    ranges = all_shares(written)
    if ranges is None:
        ranges = {}
        for part, text in written.items():
            found = parse(part, text)
            if found is None or found[0] not in names:
                hint = near(found[0], names) if found else ""
                raise UserError(
                    f"config.data.{part} is {text!r}, but {there}{hint}. Name a split or a share of one, such as "
                    f"'train[:90%]', or give {way_out}"
                )
            ranges[part] = found
    check_disjoint(written, {part: [one] for part, one in ranges.items()})
    return written, ranges


def indices(count: int, start: int, stop: int) -> np.ndarray:
    """Returns which of `count` examples are in a share from `start` to `stop` percent, int [n], in rising order."""
    if (start, stop) == (0, 100):
        return np.arange(count)
    order = np.random.Generator(np.random.Philox(key=[2012, 0])).permutation(count)
    return np.sort(order[round(count * start / 100) : round(count * stop / 100)])
