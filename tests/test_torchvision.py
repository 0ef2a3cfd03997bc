"""torchvision's networks with equal weights: the same scores, the same gradients, the same step of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torchvision_models
from flax import nnx

from cnn_jax import baselines, foreign_weights, models, optim, step
from cnn_jax.data import augment
from configs import base, lenet5

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)

# Fully connected layers behind maps fix the image. With it torchvision's adaptive pooling, to 6x6 in AlexNet and to 7x7
# in VGG, gets maps of that very size and changes nothing; on others there is no network of ours with these weights.
IMAGES = dict(alexnet=224) | {name: 224 for name in foreign_weights.NETWORKS if name.startswith("vgg")}
CONSTRUCTED = {"googlenet": dict(aux_logits=True, init_weights=False)}


def shapes(name, size):
    """Returns our network for torchvision's `name` as shapes only."""
    ours, fields = foreign_weights.NETWORKS[name]
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


@pytest.mark.parametrize("name", foreign_weights.NETWORKS)
def test_the_scores_are_those_of_torchvision(name):
    gain = 0.7 if "res" in name else 1.0
    source = torchvision_models.random_torch_network(name, gain=gain, **CONSTRUCTED.get(name, {}))
    import torch

    size = IMAGES.get(name, 64)
    x = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    model = nnx.view(foreign_weights.load(shapes(name, size), numpy_weights(source)), **EVAL)
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


@pytest.mark.parametrize("name", ["vgg11_bn", "googlenet", "squeezenet1_0", "resnet18"])
def test_torchvision_takes_what_we_export(name):
    source = torchvision_models.random_torch_network(name, **CONSTRUCTED.get(name, {}))
    import torch

    weights = numpy_weights(source)
    exported = foreign_weights.export(foreign_weights.load(shapes(name, IMAGES.get(name, 64)), weights))
    torchvision_models.randomize(source, gain=0.5)
    source.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in exported.items()}, strict=True)
    for theirs, value in numpy_weights(source).items():
        if not theirs.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, weights[theirs])


# ---------------------------------------------------------------- training

RATE, MOMENTUM, DECAY = 0.125, 0.9, 2.0**-6
MEAN, STD = np.float32([0.5]), np.float32([0.25])


def our_steps(model, batch, dtype):
    """Yields (gradient, parameters and statistics) of each step, as networks."""
    network, params, stats = step.split(model)
    params, stats = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, stats))
    config = base.get_config().optim
    config.update(dict(momentum=MOMENTUM, weight_decay=DECAY, decay_rule=".*", nesterov=False))
    optimizer = optim.make_optimizer(config, params)
    loss_fn = step.make_loss(network, mean=MEAN, std=STD)
    train_step = step.make_train_step(loss_fn, optimizer, lambda _: jnp.float32(RATE))
    state = step.create_state(params, stats, optimizer, ema=False)
    velocity = jax.tree.map(jnp.zeros_like, params)
    while True:
        before, params = velocity, jax.tree.map(jnp.copy, state.params)
        state = train_step(state, batch, None)
        velocity = next(part.trace for part in state.opt_state if isinstance(part, optax.TraceState))
        velocity = jax.tree.map(jnp.copy, velocity)  # the next step donates it
        gradient = jax.tree.map(lambda v, old, p: v - MOMENTUM * old - DECAY * p, velocity, before, params)
        yield tuple(
            foreign_weights.export(nnx.merge(network.train, *jax.tree.map(jnp.copy, trees)))
            for trees in ((gradient, state.stats), (state.params, state.stats))
        )


def compare_training(model, source, image_shape, batch_size, dtype, tolerance):
    """Fails unless two steps on one batch change `model` as torch's SGD changes `source`, which has its weights."""
    import torch

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, *image_shape), np.uint8)
    labels = random.integers(0, 10, batch_size).astype(np.int32)
    batch = {"image": images, "label": labels, "position": np.arange(batch_size, dtype=np.uint32)}
    x = torch.from_numpy(channels_first(np.asarray(augment.normalize(images, MEAN, STD)))).to(getattr(torch, dtype))
    source.to(getattr(torch, dtype)).train()
    counts = {}  # values that each BatchNorm averages over, for a channel
    for name, layer in source.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, x, name=name: counts.update({name: x[0][:, 0].numel()}))
    sgd = torch.optim.SGD(source.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    ours = our_steps(model, batch, dtype)
    for _ in range(2):  # momentum counts in the second
        before = {name: value.copy() for name, value in numpy_weights(source).items()}
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(source(x), torch.from_numpy(labels).long()).backward()
        sgd.step()
        gradient, after = next(ours)
        for name, parameter in source.named_parameters():
            assert error(gradient[name], parameter.grad.numpy()) < tolerance, name
            assert error(after[name], parameter.detach().numpy()) < tolerance, name
            assert error(before[name], parameter.detach().numpy()) > 100 * tolerance, name  # it did change
        statistics = {name: value.numpy() for name, value in source.named_buffers() if value.ndim}
        assert len(statistics) == 2 * len(counts)
        for name, value in statistics.items():
            layer, kind = name.rsplit(".", 1)
            if kind == "running_var":  # torch's is unbiased
                value = 0.9 * before[name] + (value - 0.9 * before[name]) * (counts[layer] - 1) / counts[layer]
            assert error(after[name], value) < tolerance, name


def test_lenet5_trains_as_in_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    config = lenet5.get_config()
    source = baselines.torch_network(config, (28, 28, 1))
    torchvision_models.randomize(source, gain=0.5)
    theirs = [name for name, layer in source.named_modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    layers = ("conv1", "conv2", "head/hidden/0", "head/hidden/1", "head/classifier")
    names = dict(zip(layers, theirs, strict=True))
    monkeypatch.setitem(foreign_weights.FAMILIES, "LeNet5", lambda _: names)
    fields = {name: value for name, value in config.model.items() if name != "name"}
    model = nnx.eval_shape(lambda: models.create("lenet5", input_shape=(28, 28, 1), **fields))
    model = foreign_weights.load(model, numpy_weights(source))
    compare_training(model, source, (28, 28, 1), 32, "float32", 1e-4)


def test_resnet50_trains_as_in_torch():
    """In float64: rounding grows by the depth, and in float32 it would hide what is compared."""
    source = torchvision_models.random_torch_network("resnet50", gain=0.7)
    model = foreign_weights.load(shapes("resnet50", 64), numpy_weights(source))
    with jax.enable_x64(True):
        compare_training(model, source, (64, 64, 3), 8, "float64", 1e-5)
