"""VGG (lectures 000 to 003)."""

from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import fc_share, layer, rows, total, weights

# Network: configuration, the slide's parameters, by hand; convolutions in the slide's table, and in the paper's.
NETWORKS = {
    "vgg11": ("A", "133M", 132_863_336, "8", 8),
    "vgg13": ("B", "133M", 133_047_848, "8", 10),
    "vgg16c": ("C", "134M", 133_638_952, "11", 13),
    "vgg16": ("D", "138M", 138_357_544, "11", 13),
    "vgg19": ("E", "144M", 143_667_240, "11", 16),
}
# Layer of VGG-16: memory on the slide, by hand; weights on the slide, which are exact.
TABLE = {
    "conv1_1": ("3.2M", 224 * 224 * 64, "1,728"),
    "conv1_2": ("3.2M", 224 * 224 * 64, "36,864"),
    "pool1": ("800K", 112 * 112 * 64, "0"),
    "conv2_1": ("1.6M", 112 * 112 * 128, "73,728"),
    "conv2_2": ("1.6M", 112 * 112 * 128, "147,456"),
    "pool2": ("400K", 56 * 56 * 128, "0"),
    "conv3_1": ("800K", 56 * 56 * 256, "294,912"),
    "conv3_2": ("800K", 56 * 56 * 256, "589,824"),
    "conv3_3": ("800K", 56 * 56 * 256, "589,824"),
    "pool3": ("200K", 28 * 28 * 256, "0"),
    "conv4_1": ("400K", 28 * 28 * 512, "1,179,648"),
    "conv4_2": ("400K", 28 * 28 * 512, "2,359,296"),
    "conv4_3": ("400K", 28 * 28 * 512, "2,359,296"),
    "pool4": ("100K", 14 * 14 * 512, "0"),
    "conv5_1": ("100K", 14 * 14 * 512, "2,359,296"),
    "conv5_2": ("100K", 14 * 14 * 512, "2,359,296"),
    "conv5_3": ("100K", 14 * 14 * 512, "2,359,296"),
    "pool5": ("25K", 7 * 7 * 512, "0"),
    "head/hidden/0": ("4096", 4096, "102,760,448"),
    "head/hidden/1": ("4096", 4096, "16,777,216"),
    "head/classifier": ("1000", 1000, "4,096,000"),
}
MAPS = 3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512  # of the image and the 13 convolutions
LINEAR = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000


def by_hand(name: str) -> int:
    """Returns the weights of a layer of VGG-16."""
    convolutions = [key for key in TABLE if key.startswith("conv")]
    linear = {"head/hidden/0": 7 * 7 * 512 * 4096, "head/hidden/1": 4096 * 4096, "head/classifier": 4096 * 1000}
    if name in convolutions:
        position = convolutions.index(name)
        return 9 * MAPS[position] * MAPS[position + 1]
    return linear.get(name, 0)


def kind(name: str) -> int:
    """Returns the weights of all layers of a kind of VGG-16."""
    return weights([row for row in rows("vgg16") if row.kind == name])


def facts() -> list[Fact]:
    found = []
    for name, (letter, slide, count, printed, convolutions) in NETWORKS.items():
        told = f"VGG {letter}"
        found += [
            Fact("002", f"{told}, parameters", slide, count, lambda name=name: total(name).parameters),
            Fact(
                *("002", f"{told}, convolutions in the table", printed, convolutions),
                lambda name=name: sum(row.kind == "conv" for row in rows(name)),
                "" if letter == "A" else "rows of the table are lost in the text",
            ),
        ]
    for name, (memory, values, printed) in TABLE.items():
        told = f"VGG-16 {name.removeprefix('head/')}"
        found += [
            Fact("002", f"{told}, memory", memory, values, lambda name=name: layer(name, "vgg16").outputs),
            Fact("002", f"{told}, weights", printed, by_hand(name), lambda name=name: weights([layer(name, "vgg16")])),
        ]
    values = 224 * 224 * 3 + sum(values for _, values, _ in TABLE.values())
    convolutions = sum(map(by_hand, TABLE)) - LINEAR
    found += [
        Fact(
            *("002", "VGG-16, memory forward", "24M", values),
            lambda: total("vgg16").activations,
            "the slide's own rows add to 15.2M; 28.8M with outputs of ReLU of their own",
        ),
        Fact(
            *("002", "VGG-16, memory forward, bytes", "93M", 4 * values),
            lambda: 4 * total("vgg16").activations,
            "60.95 MB = 58.1 MiB",
        ),
        Fact("000", "VGG-16, convolutions", "~16M", convolutions, lambda: kind("conv")),
        Fact("000", "VGG-16, linear layers", "~122M", LINEAR, lambda: kind("linear"), "1024 classes there"),
        Fact(
            "000",
            "VGG-16, first linear layer",
            "~102M",
            102_760_448,
            lambda: weights([layer("head/hidden/0", "vgg16")]),
        ),
    ]
    linear = LINEAR + 4096 + 4096 + 1000
    found += [
        Fact(
            "001",
            f"share of linear layers, VGG {letter}",
            "> 90%",
            100 * linear / count,
            lambda name=name: fc_share(name),
        )
        for name, (letter, _, count, *_) in NETWORKS.items()
    ]
    return found
