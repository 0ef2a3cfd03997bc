"""The balanced order: every class equally often, every example of a class, and a function of the position alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.config.fields import get_config
from cnn_jax.data import dataset, loader
from cnn_jax.data.order import CYCLES, BalancedOrder

counts = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


def make(sizes, seed=0):
    """Returns (order, labels) of classes with so many examples each, mixed."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(1).permutation(labels)
    return BalancedOrder.of(seed, labels), labels


@given(counts, st.integers(0, 2**32 - 1), st.integers(0, 10 * CYCLES))
def test_every_cycle_has_every_class_once(sizes, seed, cycle):
    order, labels = make(sizes, seed)
    classes = np.flatnonzero(sizes)
    here = order.indices(np.arange(cycle * len(classes), (cycle + 1) * len(classes)))
    assert sorted(labels[here]) == list(classes)


@given(counts)
def test_an_epoch_of_a_class_has_each_of_its_examples_once(sizes):
    order, labels = make(sizes)
    classes = np.flatnonzero(sizes)
    for label in classes:
        size = sizes[label]
        seen = order.indices(np.arange(3 * size * len(classes)))  # three epochs of this class
        own = seen[labels[seen] == label].reshape(3, size)
        for epoch in own:
            assert sorted(epoch) == np.flatnonzero(labels == label).tolist()


def test_orders_differ_between_seeds_cycles_and_classes():
    order, labels = make([50, 50])
    positions = np.arange(2000)
    seen = order.indices(positions)
    assert not np.array_equal(seen, make([50, 50], seed=1)[0].indices(positions))
    firsts = labels[seen[::2]]  # the class that begins a cycle
    assert 400 < firsts.sum() < 600
    own = [seen[labels[seen] == label] for label in (0, 1)]
    ranks = [np.searchsorted(np.flatnonzero(labels == label), one) for label, one in enumerate(own)]
    assert not np.array_equal(ranks[0][:50], ranks[1][:50]) and not np.array_equal(ranks[0][:50], ranks[0][50:100])


def test_unreadable_examples_are_left_out():
    order = BalancedOrder.of(0, np.array([0, -1, 2, -1, 2]))
    assert set(order.indices(np.arange(100))) == {0, 2, 4}


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_any_position_is_reached_without_those_before_it(placement):
    images = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    source = dataset.ArraySource(images, np.array([0] * 50 + [1] * 10))
    config = get_config("digits").data
    config.update(dict(sampling="balanced", placement=placement, workers=2, mean=(0.5,), std=(0.5,)))

    def batches(start, stop, size):
        part = loader.Split(source, config, train=True, seed=3)
        found = list(part.train_batches(start, stop, size))
        if placement == "device":
            return [{"label": source.labels[b["index"]], "position": b["position"]} for b in found]
        return found

    whole = np.concatenate([batch["label"] for batch in batches(0, 12, 10)])
    assert whole.mean() == 0.5
    resumed = np.concatenate([batch["label"] for batch in batches(7, 12, 10)])
    np.testing.assert_array_equal(resumed, whole[70:])
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches(0, 4, 30)]), whole)


def test_labels_of_parts_made_of_parts_are_known_without_reading():
    class Unreadable(dataset.ArraySource):
        def read(self, indices):
            raise AssertionError

    images = np.zeros((3, 2, 2, 1), np.uint8)
    one, two = Unreadable(images, np.array([0, 1, 2])), Unreadable(images, np.array([2, -1, 0]))
    both = dataset.Concatenated(one, dataset.Relabeled(two, np.array([5, 6, 7])))
    assert dataset.labels_of(both).tolist() == [0, 1, 2, 7, -1, 5]
