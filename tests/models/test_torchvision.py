"""torchvision's networks with equal weights: the same scores, the same gradients, the same step of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import torchvision_models
from cnn_jax import models
from cnn_jax.config import fields as base
from cnn_jax.data import augment
from cnn_jax.nn import graph
from cnn_jax.pretrained import torchvision_weights
from cnn_jax.training import optimizers, step

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)

# Fully connected layers behind maps fix the image. With it torchvision's adaptive pooling, to 6x6 in AlexNet and to 7x7
# in VGG, gets maps of that very size and changes nothing; on others there is no network of ours with these weights.
IMAGES = dict(alexnet=224) | {name: 224 for name in torchvision_weights.NETWORKS if name.startswith("vgg")}
CONSTRUCTED = {"googlenet": dict(aux_logits=True, init_weights=False)}


def shapes(name, size):
    """Returns our network for torchvision's `name` as shapes only."""
    ours, fields = torchvision_weights.NETWORKS[name]
    return nnx.eval_shape(lambda: models.create(ours, **fields | dict(input_shape=(size, size, 3))))


def numpy_weights(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def channels_first(images):
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def error(ours, theirs):
    """Returns max|a-b| / max|b|."""
    assert ours.shape == theirs.shape
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


# ---------------------------------------------------------------- scores


QUICK = ("squeezenet1_1", "resnet18", "googlenet")
TIERS = {name: pytest.mark.slow if name in QUICK else pytest.mark.nightly for name in torchvision_weights.NETWORKS}


@pytest.mark.parametrize("name", [pytest.param(name, marks=tier) for name, tier in TIERS.items()])
def test_the_scores_are_those_of_torchvision(name):
    gain = 0.7 if "res" in name else 1.0
    source = torchvision_models.random_torch_network(name, gain=gain, **CONSTRUCTED.get(name, {}))
    import torch

    size = IMAGES.get(name, 64)
    x = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    model = nnx.view(torchvision_weights.load(shapes(name, size), numpy_weights(source)), **EVAL)
    if name == "googlenet":  # the network alone is training: auxiliary scores, and still no dropout or new statistics
        source.training, model.deterministic = True, False
    with torch.no_grad():
        theirs = source(torch.from_numpy(channels_first(x)))
    graphdef, state = nnx.split(model)
    ours = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)
    if name == "googlenet":
        scores, (first, second), _ = ours
        pairs = [(scores, theirs.logits), (first, theirs.aux_logits1), (second, theirs.aux_logits2)]
    else:
        pairs = [(ours, theirs)]
    for our, their in pairs:
        our, their = np.asarray(our), their.numpy()
        assert error(their[0], their[1]) > 1e-2  # the image matters
        assert error(our, their) < 1e-4


@pytest.mark.parametrize("name", [pytest.param("googlenet", marks=pytest.mark.slow), "squeezenet1_0", "resnet18"])
def test_torchvision_takes_what_we_export(name):
    source = torchvision_models.random_torch_network(name, **CONSTRUCTED.get(name, {}))
    import torch

    weights = numpy_weights(source)
    exported = torchvision_weights.export(torchvision_weights.load(shapes(name, IMAGES.get(name, 64)), weights))
    torchvision_models.randomize(source, gain=0.5)
    source.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in exported.items()}, strict=True)
    for theirs, value in numpy_weights(source).items():
        if not theirs.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, weights[theirs])


# ---------------------------------------------------------------- training

RATE, MOMENTUM, DECAY = 0.125, 0.9, 2.0**-6
MEAN, STD = np.float32([0.5]), np.float32([0.25])


def our_steps(model, batch, dtype):
    """Yields the gradient of each step, and the parameters and statistics after it, both as torch's state dict."""
    network, params, stats = graph.split(model)
    params, stats = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, stats))
    config = base.get_config().optim
    config.update(dict(momentum=MOMENTUM, weight_decay=DECAY, decay_rule=".*", nesterov=False))
    optimizer = optimizers.make_optimizer(config, params)
    loss_fn = step.make_loss(network, mean=MEAN, std=STD)
    train_step = step.make_train_step(loss_fn, optimizer, lambda _: jnp.float32(RATE))
    velocity = jax.tree.map(lambda p: np.zeros(p.shape), params)
    state = step.create_state(params, stats, optimizer, ema=False)
    while True:
        before = jax.tree.map(np.array, (state.params, velocity))  # copies: the step donates its state
        state = train_step(state, batch, None)
        (velocity,) = (part.trace for part in state.opt_state if isinstance(part, optax.TraceState))
        # The optimizer keeps velocity = momentum * velocity before + gradient + decay * parameter.
        gradient = jax.tree.map(lambda v, p, old: np.array(v) - MOMENTUM * old - DECAY * p, velocity, *before)
        yield tuple(
            torchvision_weights.export(nnx.merge(network.train, tree, state.stats)) for tree in (gradient, state.params)
        )


def compare_training(model, source, image_shape, *, batch_size, steps, dtype, tolerance):
    """Fails unless steps on one batch change `model` as torch's SGD changes `source`, which has the same weights."""
    import torch

    random = np.random.default_rng(0)
    images = 255 * random.integers(0, 2, (batch_size, *image_shape), np.uint8)  # black and white: normalized exactly
    labels = random.integers(0, 10, batch_size).astype(np.int32)
    batch = {"image": images, "label": labels, "position": np.arange(batch_size, dtype=np.uint32)}
    x = torch.from_numpy(channels_first(np.asarray(augment.normalize(images, MEAN, STD)))).to(getattr(torch, dtype))
    source.to(getattr(torch, dtype)).train()
    counts = {}  # values of a channel that each BatchNorm averages over
    for name, layer in source.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, x, name=name: counts.update({name: x[0][:, 0].numel()}))
    sgd = torch.optim.SGD(source.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for _, (gradient, ours) in zip(range(steps), our_steps(model, batch, dtype), strict=False):
        before = {name: value.copy() for name, value in numpy_weights(source).items()}
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(source(x), torch.from_numpy(labels).long()).backward()
        sgd.step()
        after = numpy_weights(source)
        for name, parameter in source.named_parameters():
            assert error(gradient[name], parameter.grad.numpy()) < tolerance, name
        statistics = [name for name, value in source.named_buffers() if value.ndim]
        assert len(statistics) == 2 * len(counts)
        for name in ours:
            change = after[name] - before[name]
            if name.endswith("running_var"):  # 0.9 * before + 0.1 * variance, of which torch takes the unbiased one
                count = counts[name.removesuffix(".running_var")]
                change = (change + 0.1 * before[name]) * (count - 1) / count - 0.1 * before[name]
            assert error(ours[name] - before[name], change) < tolerance, name


def test_lenet5_trains_as_in_torch(monkeypatch):
    pytest.importorskip("torch")
    from torch import nn

    maps = [nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
    units = [nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)]
    source = nn.Sequential(*maps, nn.Flatten(), *units)
    torchvision_models.randomize(source, gain=0.5)
    theirs = [name for name, layer in source.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    layers = ("conv1/conv", "conv2/conv", "head/hidden/0", "head/hidden/1", "head/classifier")
    names = dict(zip(layers, theirs, strict=True))
    monkeypatch.setitem(torchvision_weights.FAMILIES, "LeNet5", lambda _: names)
    fields = dict(input_shape=(28, 28, 1), padding=2, activation="tanh", pool="average")
    model = nnx.eval_shape(lambda: models.create("lenet5", **fields))
    model = torchvision_weights.load(model, numpy_weights(source))
    # Two steps: momentum counts in the second.
    compare_training(model, source, (28, 28, 1), batch_size=32, steps=2, dtype="float32", tolerance=1e-4)


@pytest.mark.slow
def test_resnet50_trains_as_in_torch():
    """In float64: with float32, rounding turns the sign of a few activations, and with it of whole gradients."""
    source = torchvision_models.random_torch_network("resnet50", gain=0.7)
    model = torchvision_weights.load(shapes("resnet50", 64), numpy_weights(source))
    with jax.enable_x64(True):
        compare_training(model, source, (64, 64, 3), batch_size=8, steps=1, dtype="float64", tolerance=1e-5)
