"""Averages of weights against plain NumPy, and runs that use them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.config.durations import in_steps, to_steps
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.eval import steps as eval_steps
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import averages, evaluate_run, loop
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


def steps_of(duration):
    return float(duration.split()[0])


def config_of(**fields):
    config = recipes.get_config("resnet20")
    config.update(fields)
    return config


@pytest.mark.parametrize(
    ("total", "last", "every", "expected"),
    [
        (20, 10, 5, [15, 20]),
        (20, 11, 5, [15, 20]),
        (20, 13, 5, [10, 15, 20]),
        (20, 20, 7, [6, 13, 20]),
        (20, 8, 2.75, [14, 17, 20]),
        (6, 2, 0.5, [5, 6]),
        (9, 2, 1, [8, 9]),
    ],
)
def test_mean_of_weights_is_that_of_the_steps_it_names(total, last, every, expected):
    config = config_of(swa_last=f"{last} steps", swa_every=f"{every} steps")
    average = averages.make_average(config, total, steps_of)
    random = np.random.default_rng(0)
    weights = random.normal(size=(total + 1, 3)).astype(np.float32)
    update = jax.jit(average.update)
    found = jnp.asarray(weights[0])
    for step in range(total):
        found = update(jnp.int32(step), found, jnp.asarray(weights[step + 1]))
        averaged = [number for number in expected if number <= step + 1]
        mean = weights[averaged].mean(0) if averaged else weights[step + 1]
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
        if len(averaged) < 2 and step + 1 <= expected[0]:
            np.testing.assert_array_equal(found, weights[step + 1])  # a copy


def test_longer_run_has_its_own_mean_or_is_refused():
    fields = dict(swa_last="10 steps", swa_every="2 steps")
    before, longer = (averages.make_average(config_of(**fields), total, steps_of) for total in (20, 29))
    found = jnp.float32(0)
    for step in range(29):
        found = (before if step < 20 else longer).update(jnp.int32(step), found, jnp.float32(step + 1))
    np.testing.assert_allclose(found, np.mean([21, 23, 25, 27, 29]), rtol=1e-6)
    longer.check_resumes(20)
    average = averages.make_average(config_of(**fields), 28, steps_of)
    with pytest.raises(UserError, match=r"begin at step 20, .* checkpoint of step 20 .* at least '29 steps'"):
        average.check_resumes(20)


@pytest.mark.slow
def test_extended_run_keeps_to_the_check_of_its_mean(trained, tmp_path, console):
    config, folder, _ = trained
    config = config.copy_and_resolve_references()
    config.duration = "16 steps"
    options = Options(console=console, extend=True)
    before = (folder / "config.json").read_text()
    with pytest.raises(UserError, match=r"checkpoint of step 12 is past it .* at least '17 steps'"):
        loop.run(config, folder, options)
    assert (folder / "config.json").read_text() == before


@pytest.mark.parametrize(("epochs", "batch_size", "examples"), [(75, 64, 1258), (20, 96, 1000), (2, 96, 1000)])
def test_mean_of_the_last_epochs_has_one_state_of_each(epochs, batch_size, examples):
    given = dict(batch_size=batch_size, num_examples=examples)
    total = to_steps("100 epochs", **given)
    average = averages.make_average(config_of(swa_last=f"{epochs} epochs"), total, partial(in_steps, **given))
    assert isinstance(average, averages.SWA) and len(average.steps) == epochs
    ends = [total - k * examples / batch_size for k in range(epochs)]
    np.testing.assert_allclose(average.steps, ends[::-1], atol=0.5)


def test_no_average_is_asked_for_by_default():
    assert averages.make_average(config_of(), 20, steps_of) is None and not averages.has_average(config_of())
    assert averages.make_average(config_of(ema_decay=0.9), 20, steps_of) == averages.EMA(0.9)
    assert averages.has_average(config_of(swa_last="2 epochs"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(swa_last="21 steps"), "swa_last is '21 steps' = 21 steps, but training has 20: set a shorter one"),
        (dict(swa_last="5 steps", ema_decay=0.9), "swa_last is '5 steps' and config.ema_decay 0.9, but a run has one"),
        (dict(swa_last="1 steps"), "swa_every '1 epochs', so the average has one state only: set a shorter"),
        (dict(swa_last="5 steps", swa_every="50 steps"), "so the average has one state only: set a shorter"),
    ],
)
def test_impossible_average_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        averages.make_average(config_of(**fields), 20, steps_of)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns (configuration, folder, final metrics) of a small run that averages the steps 8, 10 and 12."""
    config = recipes.get_config("cifar_resnet")
    config.model.depth, config.model.width = 8, 0.25
    config.data.image_size = (8, 8)
    config.duration, config.optim.schedule.warmup = "12 steps", "0 steps"
    config.swa_last, config.swa_every = "6 steps", "2 steps"
    config.log.every, config.eval.every = "1 steps", "4 steps"
    config.checkpoint.every, config.checkpoint.keep = "1 steps", 12
    config.eval.recompute_statistics = 3
    config.log.trackers = ""
    folder = tmp_path_factory.mktemp("swa")
    return config.lock(), folder, loop.run(config, folder, Options())


@pytest.mark.slow
def test_checkpoint_has_the_mean_of_weights_with_its_statistics(trained):
    config, folder, final = trained
    setup = build(config)
    with Checkpoints(folder) as checkpoints:
        states = [States(setup).restore(checkpoints, step) for step in range(1, 13)]
        stored = checkpoints.read_weights(12)
    last = states[-1]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *(states[step - 1].params for step in (8, 10, 12)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last.ema["params"], expected)
    jax.tree.map(np.testing.assert_array_equal, states[4].ema["params"], states[4].params)
    # The statistics are those of the mean on three batches, computed anew.
    statistics_step = eval_steps.make_statistics_step(setup.network, **setup.data.normalization)
    batches = setup.data.parts["train"].train_batches(0, 3, config.batch_size)
    found = [
        statistics_step(last.ema["params"], last.ema["stats"], setup.put(batch), setup.resident("train"))
        for batch in batches
    ]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), last.ema["stats"], expected)
    for name, leaf in trees.named_leaves(last.ema["stats"]):
        np.testing.assert_array_equal(stored[name], leaf)  # what is exported
        assert np.abs(leaf - dict(trees.named_leaves(last.stats))[name]).max() > 0
    again = evaluate_run.evaluate_run(config, folder, "latest")
    for part in ("validation", "test"):
        assert again[part]["loss"] == final[part]["loss"]


@pytest.mark.slow
def test_run_with_a_mean_of_weights_resumes_bit_identically(trained, tmp_path):
    config, folder, final = trained
    for step in (10, 11, 12):  # as after a kill behind step 9
        assert (folder / "checkpoints" / str(step)).is_dir()
        (folder / "checkpoints" / str(step)).rename(tmp_path / str(step))
    (folder / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    again = loop.run(config, folder, Options())
    assert again["test"]["loss"] == final["test"]["loss"]
    assert read_jsonl(folder / "metrics.jsonl")[-1]["loss"] == final["test"]["loss"]
