"""A model of the step time on N accelerators, on paper: put in your own numbers.

    cnn_jax benchmark scaling --model
    cnn_jax benchmark scaling --model --network=vgg16 --devices=1,8,64 --peak=125e12 --utilization=0.4

Each accelerator computes its part of the batch, and a ring all-reduce adds up the gradients: it sends and
receives 2 (N - 1) / N times their bytes over each link, in 2 (N - 1) messages (Patarasu and Yuan 2009). The backward
pass, two thirds of the computation, hides a part of that: the gradients of the last layers are ready first.

    compute      = 3 x 2 x MACs x images of a device / (peak x utilization)
    all-reduce   = 2 (N - 1) / N x bytes of gradients / bandwidth + 2 (N - 1) x latency
    step         = compute + max(0, all-reduce - overlap x 2/3 compute)
    efficiency   = compute / step, and compute / (compute + all-reduce) where nothing is hidden

Parameters and MACs are those of the layer table. What the model leaves out: input that comes late, BatchNorm over all
devices, stragglers, links that are shared, and the optimizer. It is as good as `utilization`, which can be measured on
one device: `share` of `cnn_jax benchmark`. How much of the communication is hidden is not known in advance: real
systems lie between the two efficiencies, or below both if something that is left out matters.

With `--preflight`, compute, bytes and the number of all-reduces come from a compiler, in a file that `cnn_jax preflight
--json` wrote: BatchNorm over all devices counts, and utilization matters only if the compiler gives no time.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cnn_jax.core import files
from cnn_jax.core.errors import check
from cnn_jax.display.tables import Share, Sheet, Short, render, screen

PASSES = 3  # forward pass, input gradient, parameter gradient
BACKWARD = 2 / 3
IMAGES = 1_281_167  # ILSVRC 2012's training part


def _number(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class System:
    """What the model knows about the hardware and the training; by default the system of Goyal et al.

    P100 with 10.6 TFLOP/s in float32, eight in a server, and 50 Gbit/s between servers, which the ring crosses once.
    Their 32,000 images/s at 90% are 139 images/s of a GPU, 0.32 of its peak.
    """

    peak: float = _number(10.6e12, "FLOP/s of one device in the precision of training.")
    utilization: float = _number(0.32, "Share of the peak that the network reaches on one device.")
    bandwidth: float = _number(6.25e9, "Bytes/s of the slowest link in the ring, one way.")
    latency: float = _number(10e-6, "Seconds of a message.")
    overlap: float = _number(0.8, "Share of the backward pass that hides communication, 0 to 1.")
    images: int = _number(32, "Images on one device in a step.")
    gradient_bytes: int = _number(4, "Bytes of one gradient.")
    image_bytes: float = _number(110e3, "Bytes of one stored image: about the mean of ImageNet's JPEGs.")
    storage: float = _number(1e9, "Bytes/s that a checkpoint is written with.")


@dataclass(frozen=True)
class Workload:
    """What the model knows about a network."""

    name: str
    parameters: int
    macs: int  # of one image
    statistics: int = 0  # of BatchNorm
    compute: float | None = None  # seconds of a step on one device; None: from peak and utilization
    exchanged: int | None = None  # bytes that a step adds up over devices; None: all gradients
    all_reduces: int = 1  # of a step


@dataclass(frozen=True)
class Step:
    """The step on a number of devices: seconds, and what follows from them."""

    devices: int
    compute: float
    all_reduce: float
    step: float
    images_per_second: float
    efficiency: float  # images/s / the images/s of as many devices without communication
    efficiency_unhidden: float  # if no communication is hidden
    bytes_per_second: float  # from storage
    epoch: float  # seconds of an epoch of ImageNet


def predict(network: Workload, system: System, devices: int) -> Step:
    """Evaluates the formulas above."""
    flops = PASSES * 2 * network.macs * system.images
    compute = network.compute or flops / (system.peak * system.utilization)
    gradients = network.parameters * system.gradient_bytes if network.exchanged is None else network.exchanged
    messages = 2 * (devices - 1) * network.all_reduces
    all_reduce = 2 * (devices - 1) / devices * gradients / system.bandwidth + messages * system.latency
    step = compute + max(0.0, all_reduce - system.overlap * BACKWARD * compute)
    speed = devices * system.images / step
    efficiencies = compute / step, compute / (compute + all_reduce)
    return Step(devices, compute, all_reduce, step, speed, *efficiencies, speed * system.image_bytes, IMAGES / speed)


def checkpoint_bytes(network: Workload) -> int:
    """Returns the bytes of a checkpoint: parameters, momentum and statistics in float32."""
    return 4 * (2 * network.parameters + network.statistics)


def known(name: str) -> Workload:
    """Returns a network of `cnn_jax.models`, for 1000 classes and images of 224 x 224."""
    import cnn_jax
    from cnn_jax.analysis.layer_table import layer_table

    shape = (224, 224, 3)
    rows = layer_table(lambda: cnn_jax.create(name, input_shape=shape), shape)
    sums = (sum(getattr(row, count) for row in rows) for count in ("parameters", "macs", "statistics"))
    return Workload(name, *sums)


def compiled(path: Path) -> tuple[Workload, dict[str, float]]:
    """Returns (network, numbers of a `System`) from a file that `cnn_jax preflight --json` wrote.

    A gather or a scatter sends half as many bytes as an all-reduce. The bandwidth is that of one axis of the
    torus of a TPU, or of the NVLink of a GPU, in one direction.

    Raises:
      UserError: it is another kind of file, has several configurations, or is for one device, which exchanges nothing.
    """
    found = files.read_json(path)
    check(
        isinstance(found, dict) and "steps" in found,
        f"--preflight: {str(path)!r} is not a file that cnn_jax preflight --json=FILE wrote for one configuration",
    )
    check(
        found["devices"] > 1,
        f"--preflight: {str(path)!r} is for one device, which exchanges nothing: compile for several, such as "
        "--for=v5e:2x2",
    )
    train, chip = found["steps"]["training"], found["chip"]
    rows = train["exchanges"]
    exchanged = sum(row["bytes"] // (1 if row["kind"] == "all-reduce" else 2) for row in rows)
    network = Workload(
        found["network"],
        found["parameters"],
        found["macs"],
        found["statistics"],
        compute=train["estimated_seconds"],
        exchanged=exchanged,
        all_reduces=sum(row["count"] for row in rows),
    )
    images = found["batch_size"] // found["devices"]
    return network, dict(peak=chip["peak"], images=images, bandwidth=chip["link"] / 2 / chip.get("axes", 1))


# Published measurements, each as its source gives it; None where it has no number.
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


def sheets(network: Workload, system: System, counts: Sequence[int]) -> list[Sheet]:
    """Returns the tables: of the model, and of published measurements."""
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


def draw(networks: Sequence[Workload], system: System, path: Path) -> None:
    """Draws efficiency and images/s over devices, with none to all of the backward pass hiding communication."""
    from cnn_jax.display.plots import save, subplots

    counts = [2**i for i in range(13)]
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, network in enumerate(networks):
        bounds = [[predict(network, replace(system, overlap=share), n) for n in counts] for share in (0.0, 1.0)]
        for axis, value in ((left, "efficiency"), (right, "images_per_second")):
            low, high = ([getattr(step, value) for step in steps] for steps in bounds)
            axis.fill_between(counts, low, high, color=f"C{i}", alpha=0.3, label=network.name)
            for run in PUBLISHED:
                if run.network == network.name and (y := getattr(run, value)):
                    axis.plot(run.devices, y, "o", color=f"C{i}", mfc="none")
    title = "bands: nothing to all of the backward pass\nhides communication; circles: published"
    left.set(xscale="log", ylim=(0, 1.05), xlabel="devices", ylabel="efficiency", title=title)
    right.set(xscale="log", yscale="log", xlabel="devices", ylabel="images/s")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="lower left")
    save(figure, path)


def show(
    names: Sequence[str],
    devices: Sequence[str],
    system: System,
    *,
    form: str = "text",
    plot: Path | None = None,
    workloads: Sequence[Workload] = (),
) -> None:
    """Prints the tables of networks, and draws the picture if `plot` names a file.

    Args:
      workloads: networks to use instead of those in `names`.

    Raises:
      UserError: a value of `system` or a number of devices is impossible, or there is no such network.
    """
    for name, value in asdict(system).items():
        least = name in ("latency", "overlap")  # may be 0
        check(value > 0 or (least and value == 0), f"--{name} is {value}, but must be above 0")
    for name in ("utilization", "overlap"):
        check(getattr(system, name) <= 1, f"--{name} is {getattr(system, name)}, but must be at most 1")
    for word in devices:
        check(word.isdecimal() and int(word) > 0, f"--devices has {word!r}, but must be numbers such as 1,8,64")
    networks = list(workloads) or [known(name) for name in names]
    for network in networks:
        print(render(sheets(network, system, [int(word) for word in devices]), form, width=screen()))
        size = checkpoint_bytes(network)
        print(f"checkpoint of {network.name}: {size:,} bytes, {size / system.storage:.2g} s\n")
    if plot:
        draw(networks, system, plot)
