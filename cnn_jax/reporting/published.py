"""Published results of the networks: numbers as literals, each with its evaluation protocol and its source.

A number that the source does not give is None. Results whose network the source does not name are left out. An ensemble
is listed under the network that most of its members are, and its `views` say that it is one.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedResult:
    """One published result of one network."""

    by: str  # "paper" or "torchvision"
    network: str  # a key of cnn_jax.models.MODELS
    dataset: str  # a key of cnn_jax.config.datasets.DATASETS, or the name of a set that has no row there
    view: str  # what the network sees of an image; numbers of different views are not comparable
    top1: float | None  # error, %
    top5: float | None  # error, %
    evaluation: str
    source: str
    fields: dict[str, Any] = field(default_factory=dict)  # of config.model, where they are not the network's defaults


def _rows(
    by: str, dataset: str, view: str, evaluation: str, source: str, *rows: tuple[Any, ...]
) -> list[PublishedResult]:
    """Returns results that differ only in (network, top1, top5, fields)."""
    return [PublishedResult(by, row[0], dataset, view, row[1], row[2], evaluation, source, *row[3:]) for row in rows]


TORCHVISION_ACCURACY = (  # network, top-1, top-5, fields
    ("alexnet", 56.522, 79.066, {"variant": "one_tower"}),
    ("vgg11", 69.020, 88.628),
    ("vgg13", 69.928, 89.246),
    ("vgg16", 71.592, 90.382),
    ("vgg16", 73.360, 91.516, {"norm": "batch"}),
    ("vgg19", 72.376, 90.876),
    ("googlenet", 69.778, 89.530, {"variant": "torchvision"}),
    ("resnet18", 69.758, 89.078),
    ("resnet34", 73.314, 91.420),
    ("resnet50", 76.130, 92.862),
    ("resnet101", 77.374, 93.546),
    ("resnet152", 78.312, 94.046),
    ("squeezenet1_0", 58.092, 80.420),
    ("squeezenet1_1", 58.178, 80.624),
)
_TORCHVISION_ERROR = [
    (name, round(100 - a, 3), round(100 - b, 3), *fields) for name, a, b, *fields in TORCHVISION_ACCURACY
]
_PLAIN, _A, _C = {"residual": False}, {"shortcut": "A"}, {"shortcut": "C"}
_V1 = {"variant": "v1"}  # strides in the first 1x1 of a bottleneck; torchvision has them in its 3x3

RESULTS: tuple[PublishedResult, ...] = (
    *_rows(
        *(
            "paper",
            "imagenet2010",
            "10 crops",
            "10 crops, averaged; ILSVRC-2010 test",
            "Krizhevsky et al. 2012, Table 1",
        ),
        ("alexnet", 37.5, 17.0),
    ),
    *_rows(
        *(
            "paper",
            "imagenet2010",
            "1 crop",
            "not averaged; ILSVRC-2010 test",
            "Krizhevsky et al. 2012, section 6, note 5",
        ),
        ("alexnet", 39.0, 18.3),
    ),
    *_rows(
        *("paper", "imagenet2012", "10 crops", "10 crops, the paper's test procedure (not restated for this table)"),
        "Krizhevsky et al. 2012, Table 2",
        ("alexnet", 40.7, 18.2),
    ),
    *_rows(
        *("paper", "imagenet2012", "5 networks", "5 networks, averaged; test part"),
        "Krizhevsky et al. 2012, Table 2",
        ("alexnet", None, 16.4),
    ),
    *_rows(
        *("paper", "imagenet2012", "7 networks", "7 networks, two of them begun on ImageNet 2011, averaged; test part"),
        "Krizhevsky et al. 2012, Table 2",
        ("alexnet", None, 15.3),
    ),
    *_rows(
        *("paper", "imagenet2012", "10 crops", "the paper's test procedure (not restated for this table)"),
        "Zeiler and Fergus 2013, Table 2",
        ("zfnet", 38.4, 16.5),
        ("zfnet", 37.5, 16.0, {"variant": "zfnet_wide"}),
    ),
    *_rows(
        *("paper", "imagenet2012", "5 networks", "5 networks, averaged; validation part"),
        "Zeiler and Fergus 2013, Table 2",
        ("zfnet", 36.7, 15.3),
    ),
    *_rows(
        *("paper", "imagenet2012", "6 networks", "6 networks, one of them wide, averaged; test part"),
        "Zeiler and Fergus 2013, Table 2",
        ("zfnet", None, 14.8),
    ),
    *_rows(
        *("paper", "imagenet2012", "7 networks", "7 networks of several depths, averaged; test part"),
        "Simonyan and Zisserman 2015, Table 7",
        ("vgg16", None, 7.3),
    ),
    *_rows(
        *("paper", "imagenet2012", "2 networks", "2 networks, of 16 and 19 layers, averaged; test part"),
        "Simonyan and Zisserman 2015, Table 7",
        ("vgg16", None, 6.8),
    ),
    *_rows(
        *("paper", "imagenet2012", "7 networks", "7 networks, 144 crops, averaged; test part"),
        "Szegedy et al. 2015, Table 2",
        ("googlenet", None, 6.67),
    ),
    *_rows(
        *(
            "paper",
            "imagenet2012",
            "6 networks",
            "6 networks of several depths, two of 152 layers, averaged; test part",
        ),
        "He et al. 2016, Table 5",
        ("resnet152", None, 3.57, _V1),
    ),
    *_rows(
        *("paper", "imagenet2012", "dense", "dense and flipped, one scale: trained at 256"),
        "Simonyan and Zisserman 2015, Table 3",
        ("vgg11", 29.6, 10.4),
        ("vgg11_lrn", 29.7, 10.5),
        ("vgg13", 28.7, 9.9),
        ("vgg16c", 28.1, 9.4),
        ("vgg16", 27.0, 8.8),
        ("vgg19", 27.3, 9.0),
    ),
    *_rows(
        *("paper", "imagenet2012", "dense", "dense and flipped, one scale of 384: trained at 256 to 512"),
        "Simonyan and Zisserman 2015, Table 3",
        ("vgg16", 25.6, 8.1),
        ("vgg19", 25.5, 8.0),
    ),
    *_rows(
        *("paper", "imagenet2012", "1 crop", "1 crop", "Szegedy et al. 2015, Table 3 (through a secondary source)"),
        ("googlenet", None, 10.07),
    ),
    *_rows(
        *("paper", "imagenet2012", "10 crops", "10 crops", "Szegedy et al. 2015, Table 3; repeated in He et al. 2016"),
        ("googlenet", None, 9.15),
    ),
    *_rows(
        *(
            "paper",
            "imagenet2012",
            "144 crops",
            "144 crops",
            "Szegedy et al. 2015, Table 3; repeated in He et al. 2016",
        ),
        ("googlenet", None, 7.89),
    ),
    *_rows(
        *("paper", "imagenet2012", "10 crops", "10 crops", "He et al. 2016, Table 2"),
        ("resnet18", 27.94, None, _PLAIN),
        ("resnet18", 27.88, None, _A),
    ),
    *_rows(
        *("paper", "imagenet2012", "10 crops", "10 crops", "He et al. 2016, Table 3"),
        ("resnet34", 28.54, 10.02, _PLAIN),
        ("resnet34", 25.03, 7.76, _A),
        ("resnet34", 24.52, 7.46),
        ("resnet34", 24.19, 7.40, _C),
        ("resnet50", 22.85, 6.71, _V1),
        ("resnet101", 21.75, 6.05, _V1),
        ("resnet152", 21.43, 5.71, _V1),
    ),
    *_rows(
        *(
            "paper",
            "imagenet2012",
            "multi-scale",
            "fully convolutional, averaged over several scales",
            "He et al. 2016, Table 4",
        ),
        ("resnet50", 20.74, 5.25, _V1),
    ),
    *_rows(
        *(
            "paper",
            "imagenet2012",
            "1 crop",
            "1 crop",
            "the paper's authors: github.com/KaimingHe/deep-residual-networks",
        ),
        ("resnet50", 24.7, 7.8, _V1),
        ("resnet101", 23.6, 7.1, _V1),
        ("resnet152", 23.0, 6.7, _V1),
    ),
    *_rows(
        *("paper", "cifar10", "whole image", "the whole image; test part", "He et al. 2016, Table 6"),
        ("resnet20", 8.75, None),
        ("resnet32", 7.51, None),
        ("resnet44", 7.17, None),
        ("resnet56", 6.97, None),
    ),
    *_rows(
        *("paper", "cifar10", "whole image", "the whole image; test part; the best of 5 runs (mean 6.61 ± 0.16)"),
        "He et al. 2016, Table 6",
        ("resnet110", 6.43, None),
    ),
    *_rows(
        *("paper", "cifar10", "whole image", "the whole image; test part", "He et al. 2016, Table 6"),
        ("resnet1202", 7.93, None),
    ),
    *_rows(
        *("torchvision", "imagenet2012", "1 crop", "shorter side to 256, center crop of 224"),
        "torchvision 0.29, IMAGENET1K_V1",
        *_TORCHVISION_ERROR,
    ),
    *_rows(
        *(
            "torchvision",
            "imagenet2012",
            "1 crop",
            "shorter side to 232, center crop of 224",
            "torchvision 0.29, IMAGENET1K_V2",
        ),
        ("resnet50", round(100 - 80.858, 3), round(100 - 95.434, 3)),
    ),
)
