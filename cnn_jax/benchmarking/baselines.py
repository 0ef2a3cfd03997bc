"""References for the training speed: the loop of Flax's tutorial, and PyTorch, on the same network.

A contender is a pair of functions: `start() -> state`, which is not timed, and `run(state, steps) -> mean loss`,
which returns when everything is computed. PyTorch is imported inside functions only: nothing else needs it.
"""

import copy
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from cnn_jax.benchmarking import torch_twins
from cnn_jax.config.fields import get
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check
from cnn_jax.data import augment
from cnn_jax.data.loader import Batch
from cnn_jax.eval.steps import gather
from cnn_jax.training import schedules
from cnn_jax.training.setup import Setup
from cnn_jax.training.step import with_auxiliary

Contender = tuple[Callable[[], Any], Callable[[Any, int], Any]]

# The references are plain SGD: the settings that they lack, with the values at which they can be compared.
PLAIN = {
    "accumulation": 1,
    "norm_group": 0,
    "ema_decay": 0.0,
    "swa_last": "0 epochs",
    "label_smoothing": 0.0,
    "optim.name": "sgd",
    "optim.options": {},
    "optim.clip_value": 0.0,
    "optim.clip_adaptive": 0.0,
    "optim.clip_norm": 0.0,
    "optim.lr_multipliers": (),
    "optim.decay_style": "l2",
}


def check_comparable(config: Any) -> None:
    """Raises UserError unless a reference can do the work of `config` on the devices of this machine."""
    for field, plain in PLAIN.items():
        value = get(config, field)
        value = value.to_dict() if isinstance(value, ConfigDict) else value
        check(
            value == plain,
            f"config.{field} is {value!r}, which the loops of --against do not have: compare with "
            f"--config.{field}={plain!r}",
        )
    devices = len(jax.devices())
    check(devices == 1, f"the loops of --against run on one device, but there are {devices}: let jax see one only")


# ---------------------------------------------------------------- Flax


def flax_loop(setup: Setup, batches: Callable[[int], Iterable[Batch]], examples: Batch | None) -> Contender:
    """Returns the loop of Flax's MNIST tutorial: nnx.jit over modules, one batch from the host at a time.

    The network is ours with XLA's own operations; learning rate, momentum and decay are the
    configuration's. Images are normalized, but not augmented.

    Args:
      batches: steps -> host batches with "image" and "label", or with "index" into `examples`.
    """
    config = setup.config
    key = jax.random.key(config.seed)
    mean, std = setup.data.normalization["mean"], setup.data.normalization["std"]
    learning_rate: Any = setup.schedule

    def decayed(params: Any) -> Any:
        matches = trees.match(nnx.to_pure_dict(params), config.optim.decay_rule, field="config.optim.decay_rule")
        return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(matches))

    sgd = optax.sgd(learning_rate, config.optim.momentum or None, nesterov=config.optim.nesterov)
    if config.optim.weight_decay:
        sgd = optax.chain(optax.add_decayed_weights(config.optim.weight_decay, mask=decayed), sgd)

    def loss_fn(model: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return with_auxiliary(
            model(augment.normalize(batch["image"], mean, std), rngs=key),
            lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(),
        )

    @nnx.jit
    def train_step(model: Any, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, batch: Batch) -> None:
        dropout_key = jax.random.fold_in(key, optimizer.step[...])
        (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch, dropout_key)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])
        optimizer.update(model, grads)

    @nnx.jit  # one program instead of one for each layer
    def create() -> Any:
        model = setup.create_model(seed=jax.random.fold_in(key, 0))
        model = nnx.view(model, deterministic=False, use_running_average=False, raise_if_not_found=False)
        metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
        return model, nnx.Optimizer(model, sgd, wrt=nnx.Param), metrics

    graphdef, initial = nnx.split(create())

    def start() -> Any:
        return nnx.merge(graphdef, jax.tree.map(lambda array: array, initial))  # in separate variables

    def steps(state: Any, count: int) -> Any:
        model, optimizer, metrics = state
        for batch in batches(count):
            batch = gather(batch, examples)
            train_step(model, optimizer, metrics, {"image": batch["image"], "label": batch["label"]})
        jax.block_until_ready(nnx.state(model))
        return metrics.compute()["loss"]

    return start, steps


# ---------------------------------------------------------------- PyTorch


def torch_device() -> str:
    """Returns PyTorch's name of the device that jax computes on; raises UserError if it has none there."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--against=torch needs PyTorch: pip install torch") from None
    platform = jax.default_backend()
    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform, "")
    check(device != "", f"--against=torch compares CPUs and NVIDIA GPUs, but jax computes on {platform!r}")
    has_device = device == "cpu" or torch.cuda.is_available()
    check(has_device, "jax computes on a GPU, but this PyTorch does not see one: install its CUDA build")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as in jax
    return device


def twin(setup: Setup, device: str) -> Any:
    """Returns the same network in PyTorch, channels last, in training mode; raises UserError if there is no twin."""
    import torch  # pyright: ignore[reportMissingImports]

    network = torch_twins.network(setup.config, setup.data.image_shape)
    count = sum(parameter.numel() for parameter in network.parameters())
    ours = sum(row.parameters for row in setup.layers)
    if count != ours:
        raise RuntimeError(f"the PyTorch twin of {setup.config.model.name} has {count:,} parameters, but ours {ours:,}")
    clips = len(setup.data.image_shape) == 4
    return network.to(device, memory_format=torch.channels_last_3d if clips else torch.channels_last).train()


def torch_loops(setup: Setup, examples: Batch) -> dict[str, Contender]:
    """Returns the same "training" and "evaluation" in PyTorch: channels last, eager on a CPU, compiled on a GPU.

    Batches are taken in turn from `examples` ("image" and "label", NumPy arrays), which are on the device before the
    first step; images are normalized, but not augmented. All parameters decay and the learning rate is constant, which
    costs the same.

    Raises:
      UserError: there is no PyTorch here, or none for jax's device; the network has no twin.
    """
    device, config = torch_device(), setup.config
    import torch  # pyright: ignore[reportMissingImports]

    network = twin(setup, device)
    initial = copy.deepcopy(network.state_dict())
    forward = torch.compile(network) if device == "cuda" else network
    optim = config.optim
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=schedules.peak(config),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.nesterov,
    )
    images = torch.as_tensor(examples["image"], device=device).split(config.batch_size)
    labels = torch.as_tensor(examples["label"], device=device).long().split(config.batch_size)
    whole = len(examples["image"]) // config.batch_size  # batches
    mean, std = (torch.as_tensor(np.array(setup.data.normalization[name]), device=device) for name in ("mean", "std"))

    def normalized(image: Any) -> Any:
        # [B, *spatial, C] seen as [B, C, *spatial] is what "channels last" means.
        return ((image.float() / 255 - mean) / std).movedim(-1, 1)

    def train_step(sums: dict[str, Any], image: Any, label: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            scores = forward(normalized(image))
            loss, logits = with_auxiliary(
                scores, lambda logits: torch.nn.functional.cross_entropy(logits.float(), label)
            )
        loss.backward()
        optimizer.step()
        sums["loss"] += loss.detach()
        sums["correct"] += (logits.detach().argmax(1) == label).sum()

    def start() -> Any:
        network.load_state_dict(initial)
        optimizer.state.clear()

    def steps(_: Any, count: int) -> float:
        sums = {name: torch.zeros((), device=device) for name in ("loss", "correct")}
        for i in range(count):
            train_step(sums, images[i % whole], labels[i % whole])
        if device == "cuda":
            torch.cuda.synchronize()
        return float(sums["loss"]) / count

    def evaluate(_: Any, count: int) -> float:
        network.eval()
        sums = {name: torch.zeros((), device=device) for name in ("loss", "correct")}
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            for i in range(count):
                image, label = images[i % whole], labels[i % whole]
                logits = forward(normalized(image)).float()
                sums["loss"] += torch.nn.functional.cross_entropy(logits, label)
                sums["correct"] += (logits.argmax(1) == label).sum()
        network.train()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(sums["loss"]) / count

    return {"training": (start, steps), "evaluation": (start, evaluate)}
