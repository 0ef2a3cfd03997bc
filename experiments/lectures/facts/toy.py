"""The X/O toy of lecture 002: its maps as the slides print them, and as they are."""

from typing import Any

import numpy as np

from experiments.lectures import toy
from experiments.lectures.facts.fact import Fact

# As printed, values cut to two digits: the map of the first feature, and copies of all three, which are damaged.
PRINTED = """
 0.77 -0.11  0.11  0.33  0.55 -0.11  0.33
-0.11  1.00 -0.11  0.33 -0.11  0.11 -0.11
 0.11 -0.11  1.00 -0.33  0.11 -0.11  0.55
 0.33  0.33 -0.33  0.55 -0.33  0.33  0.33
 0.55 -0.11  0.11 -0.33  1.00 -0.11  0.11
-0.11  0.11 -0.11  0.33 -0.11  1.00 -0.11
 0.33 -0.11  0.55  0.33  0.11 -0.11  0.77
"""
COPIES = {
    "diagonal": """
 0.77 -0.11  0.11  0.33  0.55 -0.11  0.33
-0.11  1.00 -0.11  0.33 -0.11  0.11 -0.11
 0.11 -0.11  1.00 -0.33  0.11 -0.11  0.33
 0.33  0.11 -0.33  1.00 -0.33  0.11  0.33
 0.55 -0.11  0.11 -0.33  1.00 -0.11  0.33
-0.11  0.11 -0.11  0.33 -0.11  1.00 -0.11
 0.11 -0.11  0.33  0.11 -0.11 -0.11  0.77
""",
    "crossing": """
 0.33 -0.55  0.11 -0.11  0.11 -0.11  0.33
-0.55  0.55 -0.33  0.33 -0.33  0.33 -0.55
 0.11 -0.55  0.55 -0.77  0.55 -0.55  0.33
-0.11  0.11 -0.77  1.00 -0.77  0.11 -0.11
 0.11  0.55  0.55 -0.77  0.55  0.55  0.33
-0.55  0.55 -0.33  0.33 -0.33  0.33 -0.55
 0.33 -0.55  0.11 -0.11  0.11 -0.11  0.33
""",
    "antidiagonal": """
 0.33 -0.11  0.33  0.33  0.11 -0.11  0.77
-0.11  0.11 -0.11  0.33 -0.11  1.00 -0.11
 0.33 -0.11  0.33 -0.33  1.00 -0.11  0.33
 0.33  0.11 -0.33  0.33 -0.11  0.33  0.33
 0.11 -0.11  1.00 -0.33  0.33 -0.11  0.33
-0.11  1.00  0.11  0.33  0.11  0.11 -0.11
 0.77  0.11  0.11  0.33  0.55  0.11  0.33
""",
}
# The same three on the slide that sums pooling up.
SUMMARY = {
    "diagonal": """
 1.77 -0.11  0.11  0.19  0.15 -0.11  0.19
-0.11  1.19 -0.11  0.19 -0.11  0.11 -0.11
 0.11 -0.11  1.00  0.11  0.11 -0.11  0.19
 1.19  1.19 -0.11  0.15 -0.11  1.19  0.19
 1.15 -0.11  0.11 -0.11  1.00 -0.11  0.11
-0.11  0.11 -0.11  0.19 -0.11  1.00  0.11
 1.19 -0.11  0.11  0.19  0.11 -0.11  0.77
""",
    "crossing": """
 1.19 -0.11  0.11 -0.11  0.11 -0.11  0.19
-0.11  1.15 -0.11  0.19 -0.11  1.15 -0.11
 0.11 -0.11  0.11 -0.77  0.11 -0.11  0.11
-0.11  1.19 -0.77  1.00 -0.77  1.19 -0.11
 0.11 -0.11  0.11  0.77  0.11 -0.11  0.11
-0.11  0.11 -0.11  0.19 -0.11  1.15 -0.11
 1.19 -0.11  0.11 -0.11  0.11 -0.11  0.19
""",
    "antidiagonal": """
 1.19 -0.11  0.11  0.19  0.11 -0.11  0.77
-0.11  1.15 -0.11  0.19 -0.11  1.00 -0.11
 1.15 -0.11  0.11 -0.11  1.00 -0.11  0.11
 1.19  1.19 -0.11  0.15 -0.11  1.19  0.19
 1.15 -0.11  1.00  0.19  0.11 -0.11  0.11
-0.11  1.00  0.11  0.19  0.11  0.15 -0.11
 1.77 -0.11  0.11  0.19  0.11 -0.11  0.77
""",
}
# By hand, in ninths: products of a feature with the nine pixels at each place, summed.
DIAGONAL = [[7, -1, 1, 3, 5, -1, 3], [-1, 9, -1, 3, -1, 1, -1], [1, -1, 9, -3, 1, -1, 5], [3, 3, -3, 5, -3, 3, 3]]
DIAGONAL += [[5, -1, 1, -3, 9, -1, 1], [-1, 1, -1, 3, -1, 9, -1], [3, -1, 5, 3, 1, -1, 7]]
CROSSING = [[3, -5, 1, -1, 1, -5, 3], [-5, 5, -5, 3, -5, 5, -5], [1, -5, 5, -7, 5, -5, 1], [-1, 3, -7, 9, -7, 3, -1]]
CROSSING += CROSSING[2::-1]
MAPS = {"diagonal": DIAGONAL, "crossing": CROSSING, "antidiagonal": [row[::-1] for row in DIAGONAL]}
POOLED = {  # as printed, and right
    "diagonal": [[9, 3, 5, 3], [3, 9, 3, 5], [5, 3, 9, 1], [3, 5, 1, 7]],
    "crossing": [[5, 3, 5, 3], [3, 9, 5, 1], [5, 5, 5, 1], [3, 1, 1, 3]],
    "antidiagonal": [[3, 5, 9, 7], [5, 5, 9, 3], [9, 9, 1, 5], [7, 3, 5, 3]],
}


def parsed(text: str) -> list[list[float]]:
    return [[float(value) for value in line.split()] for line in text.split("\n") if line]


def cut(ninths: Any) -> list[list[float]]:
    """Returns ninths as the slides print them: cut to two digits, not rounded."""
    return (np.trunc(np.asarray(ninths) * 100 / 9) / 100).tolist()


def ninths(maps: Any) -> list[list[int]]:
    return np.rint(9 * np.asarray(maps)).astype(int).tolist()


def facts() -> list[Fact]:
    found = [
        Fact(
            *("002", "pixels that an X and a deformed X share", None, 65),
            lambda: int((toy.X == toy.DEFORMED).sum()),
            "of 81: computers are literal",
        ),
        Fact(
            *("002", "the diagonal feature in the middle of the X", "0.55", 5 / 9),
            lambda: float(toy.maps(toy.X)["diagonal"][3, 3]),
            "0.56 when rounded; so is 7/9, cut to 0.77",
        ),
        Fact(
            *("002", "X under the diagonal feature", parsed(PRINTED), cut(DIAGONAL)),
            lambda: cut(ninths(toy.maps(toy.X)["diagonal"])),
            "cut, not rounded",
        ),
        Fact(
            *(
                "002",
                "X under the diagonal feature and ReLU",
                np.maximum(parsed(PRINTED), 0).tolist(),
                np.maximum(cut(DIAGONAL), 0).tolist(),
            ),
            lambda: cut(ninths(toy.relu(toy.maps(toy.X)["diagonal"]))),
        ),
    ]
    for name, by_hand in MAPS.items():

        def ours(name: str = name) -> list[list[float]]:
            return cut(ninths(toy.maps(toy.X)[name]))

        why = "the text is damaged"
        found += [
            Fact("002", f"copy of the map of the {name}", parsed(COPIES[name]), cut(by_hand), ours, why),
            Fact("002", f"map of the {name} in the summary of pooling", parsed(SUMMARY[name]), cut(by_hand), ours, why),
            Fact(
                *("002", f"map of the {name} pooled to 4x4, in ninths", POOLED[name], POOLED[name]),
                lambda name=name: ninths(toy.pooled(toy.maps(toy.X)[name])),
            ),
        ]
    return found
