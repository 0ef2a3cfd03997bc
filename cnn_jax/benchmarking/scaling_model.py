"""A model of the step time at N accelerators, on paper: put your own numbers in.

    python -m experiments.scaling
    python -m experiments.scaling --network=vgg16 --devices=1,8,64 --peak=125e12 --utilisation=0.4 --bandwidth=12.5e9

Each accelerator computes its part of the batch, and the gradients are added up by a ring all-reduce, which sends and
receives 2 (N - 1) / N times their bytes over each link, in 2 (N - 1) messages (Patarasu and Yuan 2009). The backward
pass, two thirds of the computation, hides a part of that: the gradients of the last layers are ready first.

    compute      = 3 x 2 x MACs x images of a device / (peak x utilisation)
    all-reduce   = 2 (N - 1) / N x bytes of gradients / bandwidth + 2 (N - 1) x latency
    step         = compute + max(0, all-reduce - overlap x 2/3 compute)
    efficiency   = compute / step, and compute / (compute + all-reduce) where nothing is hidden

Parameters and MACs are those of the layer table. What the model leaves out: input that comes late, BatchNorm over all
devices, stragglers, links that are shared, and the optimiser. It is as good as `utilisation`, which one device can
measure: `share` of `python -m cnn_jax.benchmark`. How much of the communication is hidden is not known before: real
systems lie between the two efficiencies, or below both where something that is left out counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnn_jax.display.tables import Share, Sheet, Short

PASSES = 3  # forward, gradient by the input, gradient by the parameters
BACKWARD = 2 / 3
IMAGES = 1_281_167  # ILSVRC 2012's training part


@dataclass(frozen=True)
class System:
    """What the model knows of the hardware and the training."""

    peak: float  # FLOP/s of one accelerator in the precision of training
    utilisation: float  # share of the peak that the network reaches on one accelerator
    bandwidth: float  # bytes/s of a device's slowest link in the ring, one way
    latency: float = 10e-6  # seconds of a message
    overlap: float = 0.8  # share of the backward pass that hides communication
    images: int = 32  # of one device in a step
    gradient_bytes: int = 4  # of one gradient
    image_bytes: float = 110e3  # of one stored image: about the mean of ImageNet's JPEGs
    storage: float = 1e9  # bytes/s that a checkpoint is written with


@dataclass(frozen=True)
class Network:
    """What the model knows of the network."""

    name: str
    parameters: int
    macs: int  # of one image
    statistics: int = 0  # of BatchNorm


@dataclass(frozen=True)
class Step:
    """The step on a number of devices: seconds, and what follows of them."""

    devices: int
    compute: float
    all_reduce: float
    step: float
    images_per_second: float
    efficiency: float  # images/s by those of as many devices that do not communicate
    efficiency_unhidden: float  # if the devices computed nothing meanwhile
    bytes_per_second: float  # from storage
    epoch: float  # seconds of an epoch of ImageNet


def predict(network: Network, system: System, devices: int) -> Step:
    """Returns what the formulas above say."""
    flops = PASSES * 2 * network.macs * system.images
    compute = flops / (system.peak * system.utilisation)
    gradients = network.parameters * system.gradient_bytes
    all_reduce = 2 * (devices - 1) / devices * gradients / system.bandwidth + 2 * (devices - 1) * system.latency
    step = compute + max(0.0, all_reduce - system.overlap * BACKWARD * compute)
    speed = devices * system.images / step
    efficiencies = compute / step, compute / (compute + all_reduce)
    return Step(devices, compute, all_reduce, step, speed, *efficiencies, speed * system.image_bytes, IMAGES / speed)


def checkpoint_bytes(network: Network) -> int:
    """Returns the bytes of a checkpoint: parameters, momentum and statistics in float32."""
    return 4 * (2 * network.parameters + network.statistics)


def known(name: str) -> Network:
    """Returns a network of `cnn_jax.models`, for 1000 classes and images of 224 x 224."""
    import cnn_jax
    from cnn_jax.analysis.layer_table import layer_table

    shape = (224, 224, 3)
    rows = layer_table(lambda: cnn_jax.create(name, input_shape=shape), shape)
    sums = (sum(getattr(row, field) for row in rows) for field in ("parameters", "macs", "statistics"))
    return Network(name, *sums)


# What others measured, each as its source has it; None where it has no number.
@dataclass(frozen=True)
class Published:
    """One published run."""

    network: str
    devices: int
    hardware: str
    batch: int | None
    images_per_second: float | None
    efficiency: float | None
    source: str


def speed(epochs: int, minutes: float) -> float:
    """Returns the images/s of a published training of ImageNet."""
    return epochs * IMAGES / (60 * minutes)


PUBLISHED = (
    Published(
        *("resnet50", 256, "Tesla P100", 8192, speed(90, 60), 0.9),
        "Goyal et al. 2017, arXiv:1706.02677: 90 epochs in an hour; about 90% from 8 to 256 GPUs",
    ),
    Published(
        *("resnet50", 1024, "Tesla P100", 32768, speed(90, 15), None),
        "Akiba et al. 2017, arXiv:1711.04325: 90 epochs in 15 minutes",
    ),
    Published(
        *("resnet50", 2048, "Xeon Phi 7250", None, speed(90, 20), None),
        "You et al. 2018, doi:10.1145/3225058.3225069: 90 epochs in 20 minutes",
    ),
    Published(
        *("resnet50", 1024, "TPU v3 chip", None, 1.05e6, None),
        "Ying et al. 2018, arXiv:1811.06992: over 1.05 million images/s",
    ),
    Published(
        *("vgg16", 512, "Pascal GPU", None, None, 0.68),
        "Horovod's benchmarks: 4 GPUs in a server, 25 Gbit/s between servers",
    ),
)


def sheets(network: Network, system: System, counts: Sequence[int]) -> list[Sheet]:
    """Returns the tables: of the model, and of what others measured."""
    steps = [predict(network, system, count) for count in counts]
    headings = ("devices", "global batch", "compute, ms", "all-reduce, ms", "step, ms", "efficiency", "nothing hidden")
    lines = [
        (
            *(step.devices, step.devices * system.images),
            *(1000 * seconds for seconds in (step.compute, step.all_reduce, step.step)),
            *(Share(step.efficiency), Share(step.efficiency_unhidden), Short(step.images_per_second)),
            *(Short(step.bytes_per_second), step.epoch / 60),
        )
        for step in steps
    ]
    title = (
        f"{network.name}: {network.parameters:,} parameters, {network.macs:,} MACs of an image; "
        f"{system.images} images on each device"
    )
    found = [Sheet(title, (*headings, "images/s", "bytes/s read", "minutes an epoch"), lines)]
    runs = [run for run in PUBLISHED if run.network == network.name]
    if runs:
        shares = [Share(run.efficiency) if run.efficiency else None for run in runs]
        speeds = [Short(run.images_per_second) if run.images_per_second else None for run in runs]
        rows = [
            (run.hardware, run.devices, run.batch, speed, share, run.source)
            for run, speed, share in zip(runs, speeds, shares, strict=True)
        ]
        named = ("hardware", "devices", "global batch", "images/s", "efficiency", "source")
        found.append(Sheet("Published; images/s of a whole training are epochs x 1,281,167 / time", named, rows))
    return found


def draw(networks: Sequence[Network], system: System, path: Path) -> None:
    """Draws efficiency and images/s over the number of devices, with nothing to all of the backward pass hidden."""
    from cnn_jax.display.plots import save, subplots

    counts = [2**i for i in range(13)]
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, network in enumerate(networks):
        bounds = [[predict(network, replace(system, overlap=share), n) for n in counts] for share in (0.0, 1.0)]
        for axis, field in ((left, "efficiency"), (right, "images_per_second")):
            low, high = ([getattr(step, field) for step in steps] for steps in bounds)
            axis.fill_between(counts, low, high, color=f"C{i}", alpha=0.3, label=network.name)
            for run in PUBLISHED:
                if run.network == network.name and (value := getattr(run, field)):
                    axis.plot(run.devices, value, "o", color=f"C{i}", mfc="none")
    title = "bands: nothing to all of the backward pass\nhides communication; circles: published"
    left.set(xscale="log", ylim=(0, 1.05), xlabel="devices", ylabel="efficiency", title=title)
    right.set(xscale="log", yscale="log", xlabel="devices", ylabel="images/s")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="lower left")
    save(figure, path)


if __name__ == "__main__":
    import dataclasses

    from absl import flags

    from cnn_jax.config import commandline
    from cnn_jax.core.errors import check
    from cnn_jax.display.tables import FORMS, render

    # Of the system of Goyal et al.: P100 with 10.6 TFLOP/s in float32, eight in a server, and 50 Gbit/s between
    # servers, which the ring crosses once. Their 32,000 images/s at 90% are 139 images/s of a GPU, 0.32 of its peak.
    _NETWORK = flags.DEFINE_list("network", ["resnet50", "vgg16"], "Networks, by name.")
    _DEVICES = flags.DEFINE_list("devices", ["1", "8", "64", "256", "1024"], "Numbers of devices.")
    _PLOT = flags.DEFINE_string("plot", None, "Picture to write, such as scaling.png.")
    _FORMAT = flags.DEFINE_enum("format", "text", FORMS, "What to print.")
    flags.DEFINE_float("peak", 10.6e12, "FLOP/s of one device.")
    flags.DEFINE_float("utilisation", 0.32, "Share of the peak that the network reaches on one device.")
    flags.DEFINE_float("bandwidth", 6.25e9, "Bytes/s of the slowest link in the ring, one way.")
    flags.DEFINE_float("latency", 10e-6, "Seconds of a message.")
    flags.DEFINE_float("overlap", 0.8, "Share of the backward pass that hides communication, 0 to 1.")
    flags.DEFINE_integer("images", 32, "Images on one device in a step.")
    flags.DEFINE_integer("gradient_bytes", 4, "Bytes of one gradient.")
    flags.DEFINE_float("image_bytes", 110e3, "Bytes of one stored image.")
    flags.DEFINE_float("storage", 1e9, "Bytes/s that a checkpoint is written with.")

    def start() -> None:
        """Prints the tables and draws the picture."""
        values: dict[str, Any] = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(System)}
        for name, value in values.items():
            least = name in ("latency", "overlap")  # may be 0
            check(value > 0 or (least and value == 0), f"--{name} is {value}, but must be above 0")
        for name in ("utilisation", "overlap"):
            check(values[name] <= 1, f"--{name} is {values[name]}, but must be at most 1")
        for word in _DEVICES.value:
            check(word.isdecimal() and int(word) > 0, f"--devices has {word!r}, but must be numbers such as 1,8,64")
        system, networks = System(**values), [known(name) for name in _NETWORK.value]
        for network in networks:
            print(render(sheets(network, system, [int(word) for word in _DEVICES.value]), _FORMAT.value))
            size = checkpoint_bytes(network)
            print(f"checkpoint of {network.name}: {size:,} bytes, {size / system.storage:.2g} s\n")
        if _PLOT.value:
            draw(networks, system, Path(_PLOT.value))

    commandline.launch(start)
