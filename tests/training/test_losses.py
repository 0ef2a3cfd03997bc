"""Losses equal torch's and their formulas, with label smoothing; weights of classes scale the loss of an example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from cnn_jax.core.errors import UserError
from cnn_jax.data import augment, dataset
from cnn_jax.data.sources import published
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop, losses
from cnn_jax.training.config_check import check_config
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build

LOGITS = 3 * np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 5, 16)


def configured(config, **changes):
    config = config.copy_and_resolve_references()
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        place = config[section] if section else config
        with place.unlocked(), place.ignore_type():
            place[leaf] = value
    return config.lock()


@pytest.fixture
def config(small_config):
    """The small run with five classes of the digits, of uneven sizes."""
    small_config.data.classes = ("0", "1", "2", "3", "4")
    small_config.data.num_classes = 5
    return small_config


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_torchs(config, smoothing):
    torch = pytest.importorskip("torch")
    targets = torch.nn.functional.one_hot(torch.tensor(LABELS), 5) * (1 - smoothing) + smoothing / 5
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), targets, reduction="none"
    ).numpy()
    ours = losses.losses_of(configured(config, loss="binary_cross_entropy", label_smoothing=smoothing))
    np.testing.assert_allclose(ours(LOGITS, LABELS), expected.mean(1), rtol=2e-6)
    options = dict(loss="binary_cross_entropy", label_smoothing=smoothing, loss_options=dict(sum_classes=True))
    np.testing.assert_allclose(
        losses.losses_of(configured(config, **options))(LOGITS, LABELS), expected.sum(1), rtol=2e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_the_formula_of_the_paper(config, gamma):
    scores = LOGITS.astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    own = shares[np.arange(16), LABELS]
    ours = losses.losses_of(configured(config, loss="focal", loss_options=dict(gamma=gamma)))
    np.testing.assert_allclose(ours(LOGITS, LABELS), -((1 - own) ** gamma) * np.log(own), rtol=2e-5)
    smooth = losses.losses_of(configured(config, loss="focal", loss_options=dict(gamma=gamma), label_smoothing=0.2))
    targets = 0.8 * np.eye(5)[LABELS] + 0.2 / 5
    expected = -(targets * (1 - shares) ** gamma * np.log(shares)).sum(1)
    np.testing.assert_allclose(smooth(LOGITS, LABELS), expected, rtol=2e-5)


def test_focal_loss_of_gamma_0_is_the_cross_entropy(config):
    for smoothing in (0.0, 0.1):
        one, other = (
            losses.losses_of(configured(config, label_smoothing=smoothing, **changes))
            for changes in (dict(), dict(loss="focal", loss_options=dict(gamma=0.0)))
        )
        np.testing.assert_allclose(one(LOGITS, LABELS), other(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("right", [False, True])
def test_slope_of_the_focal_loss_is_finite_when_certain(gamma, right):
    scores = jnp.array([[200.0, 0.0, 0.0]])
    label = jnp.array([0 if right else 1])
    slope = jax.grad(lambda scores: losses.focal(scores, label, gamma=gamma).sum())(scores)
    assert np.isfinite(slope).all() and (np.abs(slope).max() < 1e-6) == right


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_losses_are_linear_in_the_target(config, loss):
    """Mixed examples: the mean of both labels' losses is that of the mean of their targets, here smoothed by hand."""
    ours = losses.losses_of(configured(config, loss=loss))
    smooth = losses.losses_of(configured(config, loss=loss, label_smoothing=0.3))
    every = np.stack([ours(LOGITS, np.full(16, k)) for k in range(5)])
    np.testing.assert_allclose(smooth(LOGITS, LABELS), 0.7 * ours(LOGITS, LABELS) + 0.3 * every.mean(0), rtol=1e-5)


# ---------------------------------------------------------------- weights


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 7 + [1] * 2 + [3] * 11 + [-1] * 4)
    ours = losses.balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels[labels >= 0])
    np.testing.assert_allclose(ours, [expected[0], expected[1], 0, expected[2], 0], rtol=1e-6)
    assert np.mean(ours[labels[labels >= 0]]) == pytest.approx(1)


def test_given_weights_scale_the_loss_as_torchs_do(config):
    torch = pytest.importorskip("torch")
    weights = [0.5, 1.0, 2.0, 0.0, 3.5]
    config = configured(config, class_weights=",".join(map(str, weights)))
    ours = losses.weighted(losses.losses_of(config), config, data=None)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(weights), reduction="none"
    )
    np.testing.assert_allclose(ours(LOGITS, jnp.asarray(LABELS)), expected, rtol=2e-6, atol=1e-7)


def test_balanced_weights_come_from_the_training_part(config):
    setup = build(configured(config, class_weights="balanced"))
    source = setup.data.parts["train"].source
    counts = np.bincount(dataset.labels_of(source), minlength=5)
    ours = losses.weighted(lambda logits, labels: jnp.ones(len(labels)), setup.config, setup.data)
    np.testing.assert_allclose(ours(LOGITS, jnp.arange(5)), counts.sum() / (5 * counts), rtol=1e-6)


def test_where_sizes_are_all_that_is_known_weights_are_1(config):
    setup = build(configured(config, class_weights="balanced"), open_dataset=published.open_sizes)
    plain = losses.losses_of(setup.config)
    ours = losses.weighted(plain, setup.config, setup.data)
    np.testing.assert_array_equal(ours(LOGITS, jnp.asarray(LABELS)), plain(LOGITS, jnp.asarray(LABELS)))


def test_mixed_examples_have_the_weights_of_both_labels(config):
    config = configured(config, class_weights="1,2,3,4,5")
    ours = losses.weighted(losses.losses_of(config), config, data=None)
    labels = jnp.asarray(LABELS)
    plain = losses.losses_of(config)
    share = 0.3
    total = share * ours(LOGITS, labels) + (1 - share) * ours(LOGITS, augment.partners(labels))
    expected = share * (labels + 1) * plain(LOGITS, labels)
    expected += (1 - share) * (augment.partners(labels) + 1) * plain(LOGITS, augment.partners(labels))
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(class_weights="balance"), "class_weights is 'balance', but must be empty, balanced, or 5 numbers"),
        (dict(class_weights="1,2"), "or 5 numbers that are not negative, one for each class"),
        (dict(class_weights="1,2,3,4,-5"), "numbers that are not negative"),
        (dict(class_weights="0,0,0,0,0"), "numbers that are not negative"),
        (dict(class_weights="1,2,nan,4,5"), "numbers that are not negative"),
        (dict(class_weights=1.5), "class_weights is 1.5, but must be a word"),
        (dict(loss_options=dict(gamma=1.0)), "but cross_entropy takes none: leave it empty"),
        (dict(loss="focal", loss_options=dict(gama=1.0)), "has 'gama', .*; did you mean 'gamma'"),
        (dict(loss="focal", loss_options=dict(gamma=-1.0)), "gamma is -1.0, but must be a number that is not negative"),
        (dict(loss="focal", loss_options=dict(gamma="x")), "gamma is 'x', but must be a number"),
        (dict(loss="focal", loss_options=dict(label_smoothing=0.1)), r"set config\.label_smoothing"),
        (dict(loss="binary_cross_entropy", loss_options=dict(sum_classes=2)), "sum_classes is 2, but must be True or"),
        (dict(class_weights="balanced", data__sampling="balanced"), "each alone makes all classes count equally"),
        (dict(loss="focl"), "did you mean 'focal'"),
        (dict(data__sampling="balancd"), "did you mean 'balanced'"),
    ],
)
def test_mistakes_name_the_value_and_the_rule(config, changes, message):
    with pytest.raises(UserError, match=message):
        config = configured(config, **changes)
        check_config(config)
        build(config)


def test_an_uneven_run_trains_and_shows_the_balanced_accuracy(config, tmp_path, console):
    changed = configured(
        config,
        data__classes=("0", "1"),
        data__num_classes=2,
        data__sampling="balanced",
        class_weights="1,1.5",
        loss="focal",
        duration="6 steps",
        batch_size=32,
    )
    final = loop.run(changed, tmp_path, Options(console=console))
    metrics = final["test"]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(metrics["class_accuracy"]))
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["balanced_accuracy"] == pytest.approx(
        metrics["balanced_accuracy"], abs=1e-5
    )
    again = loop.run(changed, tmp_path, Options(console=console))
    assert again["test"]["loss"] == metrics["loss"]
