"""A model of the step time at N accelerators, on paper: put your own numbers in.

    python -m experiments.scaling
    python -m experiments.scaling --network=vgg16 --devices=1,8,64 --peak=125e12 --utilisation=0.4 --bandwidth=12.5e9

Each accelerator computes its part of the batch, and the gradients are added up by a ring all-reduce, which sends and
receives 2 (N - 1) / N times their bytes over each link, in 2 (N - 1) messages (Patarasu and Yuan 2009). The backward
pass, two thirds of the computation, hides a part of that: the gradients of the last layers are ready first.

    compute      = 3 x 2 x MACs x images of a device / (peak x utilisation)
    all-reduce   = 2 (N - 1) / N x bytes of gradients / bandwidth + 2 (N - 1) x latency
    step         = compute + max(0, all-reduce - overlap x 2/3 compute)

Parameters and MACs are those of the layer table. What the model leaves out: input that comes late, BatchNorm over all
devices, stragglers, links that are shared, and the optimiser. So it is a bound from above, as good as `utilisation`,
which one device can measure: `share` of `python -m cnn_jax.benchmark`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.tables import Share, Sheet, Short

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
    return Step(devices, compute, all_reduce, step, speed, compute / step, speed * system.image_bytes, IMAGES / speed)


def checkpoint_bytes(network: Network) -> int:
    """Returns the bytes of a checkpoint: parameters, momentum and statistics in float32."""
    return 4 * (2 * network.parameters + network.statistics)


def known(name: str) -> Network:
    """Returns a network of `cnn_jax.models`, for 1000 classes and images of 224 x 224."""
    import cnn_jax
    from cnn_jax.layer_table import layer_table

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
    epochs: int
    minutes: float
    efficiency: float | None
    source: str

    @property
    def images_per_second(self) -> float:
        """Follows from epochs and minutes: training alone, if that is what the minutes are of."""
        return self.epochs * IMAGES / (60 * self.minutes)


PUBLISHED = (
    Published(
        *("resnet50", 256, "Tesla P100", 8192, 90, 60, 0.9),
        "Goyal et al. 2017, arXiv:1706.02677: one hour; about 90% when moving from 8 to 256 GPUs",
    ),
    Published(
        *("resnet50", 1024, "Tesla P100", 32768, 90, 15, None),
        "Akiba et al. 2017, arXiv:1711.04325: a minibatch of 32k",
    ),
    Published(
        *("resnet50", 2048, "Xeon Phi 7250", None, 90, 20, None),
        "You et al. 2018, ICPP, doi:10.1145/3225058.3225069",
    ),
)


def sheets(network: Network, system: System, counts: Sequence[int]) -> list[Sheet]:
    """Returns the tables: of the model, and of what others measured."""
    steps = [predict(network, system, count) for count in counts]
    headings = ("devices", "global batch", "compute, ms", "all-reduce, ms", "step, ms", "efficiency", "images/s")
    lines = [
        (
            *(step.devices, step.devices * system.images),
            *(1000 * seconds for seconds in (step.compute, step.all_reduce, step.step)),
            *(Share(step.efficiency), Short(step.images_per_second), Short(step.bytes_per_second), step.epoch / 60),
        )
        for step in steps
    ]
    title = (
        f"{network.name}: {network.parameters:,} parameters, {network.macs:,} MACs of an image; "
        f"{system.images} images on each device"
    )
    found = [Sheet(title, (*headings, "bytes/s read", "minutes an epoch"), lines)]
    runs = [run for run in PUBLISHED if run.network == network.name]
    if runs:
        shares = [Share(run.efficiency) if run.efficiency else None for run in runs]
        rows = [
            (run.hardware, run.devices, run.batch, Short(run.images_per_second), share, run.source)
            for run, share in zip(runs, shares, strict=True)
        ]
        named = ("hardware", "devices", "global batch", "images/s", "efficiency", "source")
        found.append(Sheet("Published: images/s are epochs x 1,281,167 / time", named, rows))
    return found


def draw(networks: Sequence[Network], system: System, path: Path) -> None:
    """Draws efficiency over the number of devices, and the images/s."""
    from cnn_jax.plots import save, subplots

    counts = [2**i for i in range(13)]
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, network in enumerate(networks):
        steps = [predict(network, system, count) for count in counts]
        left.plot(counts, [step.efficiency for step in steps], color=f"C{i}", label=network.name)
        right.plot(counts, [step.images_per_second for step in steps], color=f"C{i}", label=network.name)
        for run in (run for run in PUBLISHED if run.network == network.name):
            right.plot(run.devices, run.images_per_second, "o", color=f"C{i}", mfc="none")
            if run.efficiency:
                left.plot(run.devices, run.efficiency, "o", color=f"C{i}", mfc="none")
    left.set(xscale="log", ylim=(0, 1.05), xlabel="devices", ylabel="efficiency", title="model; circles: published")
    right.set(xscale="log", yscale="log", xlabel="devices", ylabel="images/s", title="model; circles: published")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


if __name__ == "__main__":
    import dataclasses

    from absl import flags

    from cnn_jax import commandline
    from cnn_jax.errors import check
    from cnn_jax.tables import FORMS, render

    # Of the system of Goyal et al.: P100 with 10.6 TFLOP/s in float32, eight in a server, and 50 Gbit/s between
    # servers, which the ring crosses once. How much of the peak they reached is a guess.
    _NETWORK = flags.DEFINE_list("network", ["resnet50", "vgg16"], "Networks, by name.")
    _DEVICES = flags.DEFINE_list("devices", ["1", "8", "64", "256", "1024"], "Numbers of devices.")
    _PLOT = flags.DEFINE_string("plot", None, "Picture to write, such as scaling.png.")
    _FORMAT = flags.DEFINE_enum("format", "text", FORMS, "What to print.")
    flags.DEFINE_float("peak", 10.6e12, "FLOP/s of one device.")
    flags.DEFINE_float("utilisation", 0.5, "Share of the peak that the network reaches on one device.")
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
