"""Order and batches: nothing is lost or repeated, placement and threads change nothing, statistics are NumPy's."""

import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import models
from cnn_jax.config import fields as base
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import augment, crops, dataset, loader, splits
from cnn_jax.data.order import Order
from cnn_jax.nn import graph
from cnn_jax.training import optimizers, step


def make_config(**fields):
    config = get_config("digits").data
    config.update(dict(workers=2) | fields)
    return config


def make_source(count: int, *, side: int = 8, channels: int = 1) -> dataset.ArraySource:
    images = np.random.default_rng(count).integers(0, 256, (count, side, side, channels), np.uint8)
    return dataset.ArraySource(images, np.arange(count))  # the label tells which example it is


def make_part(count: int, *, train: bool = True, seed: int = 0, **fields) -> loader.Split:
    return loader.Split(make_source(count), make_config(**fields), train=train, seed=seed)


def gathered(part: loader.Split, batch: loader.Batch) -> loader.Batch:
    """Returns a batch with its images, whichever the placement; "index" is dropped."""
    if part.resident is None:
        return batch
    images = {name: array[batch["index"]] for name, array in part.resident.items()}
    return images | {name: array for name, array in batch.items() if name != "index"}


def assert_same(one: loader.Batch, other: loader.Batch) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# ---------------------------------------------------------------- order


@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(0, 1000))
def test_every_epoch_is_a_permutation_of_all_examples(seed, size, epoch):
    order = Order(seed, size)
    indices = order.indices(np.arange(epoch * size, (epoch + 1) * size))
    assert sorted(indices) == list(range(size))


def test_epochs_and_seeds_have_different_orders():
    orders = {
        tuple(Order(seed, 30).indices(np.arange(epoch * 30, (epoch + 1) * 30)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16
    # An example can be at any position: mean position 14.5, standard deviation of the mean over 16 shuffles 2.2.
    places = np.argsort(np.array(sorted(orders)), axis=1).mean(axis=0)
    assert abs(places - 14.5).max() < 9


@given(st.integers(0, 100), st.integers(1, 30), st.integers(1, 70), st.integers(1, 70))
def test_batches_of_any_size_are_pieces_of_the_same_sequence(seed, size, one, other):
    # Batches larger than an epoch, and batches that begin in one epoch and end in the next, included.
    order = Order(seed, size)
    whole = order.indices(np.arange(140))
    for batch_size in (one, other):
        steps = 140 // batch_size
        positions = [order.positions(step, batch_size) for step in range(steps)]
        np.testing.assert_array_equal(np.concatenate(positions), np.arange(steps * batch_size))
        pieces = np.concatenate([order.indices(p) for p in positions])
        np.testing.assert_array_equal(pieces, whole[: steps * batch_size])


def test_a_batch_is_a_function_of_the_seed_and_its_number_only():
    fresh = [Order(5, 33).indices(Order(5, 33).positions(k, 16)) for k in range(10)]
    used = Order(5, 33)
    for k in (9, 2, 7, 0, 2):  # in any order, with other seeds in between
        Order(6, 33).indices(np.arange(100))
        np.testing.assert_array_equal(used.indices(used.positions(k, 16)), fresh[k])


# ---------------------------------------------------------------- training batches


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_batches_from_a_later_start_are_the_tail_of_all_batches(placement):
    part = make_part(21, placement=placement)
    batches = list(part.train_batches(0, 7, 8))
    assert len(batches) == 7
    for start in (0, 3, 6, 7):  # 7: a finished run, no batch
        tail = list(make_part(21, placement=placement).train_batches(start, 7, 8))
        assert len(tail) == 7 - start
        for one, other in zip(batches[start:], tail, strict=True):
            assert_same(one, other)


def test_training_batches_follow_the_order():
    source = make_source(21)
    for placement in ("device", "stream"):
        part = make_part(21, placement=placement, seed=4)
        for k, batch in enumerate(part.train_batches(0, 6, 8)):
            positions = np.arange(8 * k, 8 * k + 8)
            indices = Order(4, 21).indices(positions)
            batch = gathered(part, batch)
            np.testing.assert_array_equal(batch["image"], source.images[indices])
            np.testing.assert_array_equal(batch["label"], indices)
            np.testing.assert_array_equal(batch["position"], positions)
            assert [batch[name].dtype for name in ("image", "label", "position")] == [np.uint8, np.int32, np.uint32]


@pytest.mark.parametrize("test_crop", ["resize", "center"])
def test_resident_and_streamed_batches_are_the_same(test_crop):
    fields = dict(image_size=(6, 10), test_crop=test_crop, test_resize=12)
    resident, stream = (make_part(21, placement=placement, **fields) for placement in ("device", "stream"))
    assert stream.resident is None and resident.resident["image"].shape == (21, 6, 10, 1)
    for one, other in zip(resident.train_batches(1, 6, 8), stream.train_batches(1, 6, 8), strict=True):
        assert_same(gathered(resident, one), other)
    resident, stream = (make_part(21, placement=p, train=False, **fields) for p in ("device", "stream"))
    for one, other in zip(resident.test_batches(8), stream.test_batches(8), strict=True):
        assert_same(gathered(resident, one), other)


def test_the_number_of_threads_changes_nothing_even_with_random_crops():
    fields = dict(placement="stream", train_crop="random_resized", image_size=(5, 5))
    streams = [list(make_part(21, workers=workers, **fields).train_batches(0, 6, 8)) for workers in (1, 8)]
    for one, other in zip(*streams, strict=True):
        assert_same(one, other)
    # And a crop belongs to the position: the second epoch has other crops of the same images.
    images, labels = (np.concatenate([batch[name] for batch in streams[0]])[:42] for name in ("image", "label"))
    first, second = (images[epoch][np.argsort(labels[epoch])] for epoch in (slice(21), slice(21, 42)))
    assert np.mean([np.array_equal(a, b) for a, b in zip(first, second, strict=True)]) < 0.2


def test_resident_and_streamed_training_are_bit_identical():
    trained = []
    for placement in ("device", "stream"):
        data = splits.Splits(make_config(placement=placement, normalize="none", image_size=(16, 16)), seed=2)
        network, params, stats = graph.split(
            jax.eval_shape(lambda shape=data.image_shape: models.create("lenet5", width=0.5, input_shape=shape))
        )
        random = np.random.default_rng(0)  # initializers take long to compile
        params = jax.tree.map(lambda x, r=random: jnp.asarray(r.normal(0, 0.2, x.shape), x.dtype), params)
        optimizer = optimizers.make_optimizer(base.get_config().optim, params)
        loss = step.make_loss(network, augmentations=("pad_crop:1", "flip"), **data.normalization)
        train_step = step.make_train_step(loss, optimizer, lambda _: 0.1)
        state = step.create_state(params, stats, optimizer, ema=False, seed=2)
        part = data.parts["train"]
        for batch in part.train_batches(0, 3, 16):
            state = train_step(state, batch, part.resident)
        trained.append(jax.device_get((state.params, state.sums)))
    assert trained[0][1]["steps"] == 3
    jax.tree.map(np.testing.assert_array_equal, *trained)


# ---------------------------------------------------------------- test batches


@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from(["device", "stream"]))
def test_every_test_example_counts_once_whatever_the_batch_size(count, batch_size, placement):
    part = make_part(count, train=False, placement=placement)
    batches = [gathered(part, batch) for batch in part.test_batches(batch_size)]
    assert len(batches) == -(-count // batch_size)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "mask")}
    assert all(len(batch["label"]) == batch_size for batch in batches)  # one shape: one compilation
    counted = joined["mask"] == 1
    np.testing.assert_array_equal(joined["label"][counted], np.arange(count))
    np.testing.assert_array_equal(joined["image"][counted], make_source(count).images)
    assert joined["mask"].dtype == np.float32 and set(joined["mask"][~counted]) <= {0}


# ---------------------------------------------------------------- processes and workers


def shards(count, processes, *, examples=None, train=True, seed=0, **fields):
    examples = examples or make_source(count)
    return [
        loader.Split(examples, make_config(**fields), train=train, seed=seed, shard=(process, processes))
        for process in range(processes)
    ]


def joined(batches):
    """Returns one batch of the rows of all processes."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@given(
    count=st.integers(1, 40),
    processes=st.sampled_from([1, 2, 3, 4]),
    rows=st.integers(1, 5),
    start=st.integers(0, 5),
    workers=st.sampled_from([1, 3]),
    placement=st.sampled_from(["device", "stream"]),
)
def test_the_rows_of_all_processes_are_the_batch_in_order(count, processes, rows, start, workers, placement):
    fields = dict(placement=placement, workers=workers, image_size=(5, 5))
    if placement == "stream":
        fields["train_crop"] = "random_resized"
    size = processes * rows
    whole = list(make_part(count, **fields | dict(workers=2)).train_batches(0, 6, size))
    # Any number of processes can resume from any step of any other number.
    parts = [part.train_batches(start, 6, size) for part in shards(count, processes, **fields)]
    for number, pieces in enumerate(zip(*parts, strict=True), start=start):
        assert all(len(piece["position"]) == rows for piece in pieces)
        assert_same(joined(pieces), whole[number])


@given(st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(1, 5), st.sampled_from(["device", "stream"]))
def test_an_evaluation_has_every_example_once_over_all_processes(count, processes, rows, placement):
    parts = shards(count, processes, train=False, placement=placement)
    seen = []
    for pieces in zip(*(part.test_batches(rows * processes) for part in parts), strict=True):  # as many batches each
        batch = joined([gathered(part, piece) for part, piece in zip(parts, pieces, strict=True)])
        seen += batch["label"][batch["mask"] == 1].tolist()
    assert seen == list(range(count))


def test_a_batch_that_processes_cannot_share_is_an_error():
    (_, part) = shards(21, 2, placement="stream")
    for batches in (part.train_batches(0, 1, 9), part.test_batches(9)):
        with pytest.raises(UserError, match="a batch of 9 cannot be shared by 2 processes"):
            next(batches)


class Damaged(dataset.ArraySource):
    """Every example whose number is in `bad` cannot be read."""

    bad = frozenset({0, 3, 4, 5, 6, 7, 8, 20})

    def read(self, indices):
        return [None if i in self.bad else super(Damaged, self).read([i])[0] for i in indices]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("processes", "workers"), [(1, 5), (2, 1), (3, 2)])
def test_replacements_do_not_depend_on_processes_or_workers(train, processes, workers):
    source = Damaged(make_source(21).images, np.arange(21))
    fields = dict(placement="stream", source="folder", on_error="skip", train_crop="random_resized", image_size=(5, 5))

    def batches(part):
        return part.train_batches(0, 5, 12) if train else part.test_batches(12)

    (whole,) = shards(21, 1, examples=source, train=train, workers=1, **fields)
    parts = shards(21, processes, examples=source, train=train, workers=workers, **fields)
    for expected, *pieces in zip(batches(whole), *map(batches, parts), strict=True):
        assert_same(joined(pieces), expected)
        seen = expected["label"][expected.get("mask", np.ones(12)) > 0]
        assert not set(seen.tolist()) & Damaged.bad
    assert whole.skipped == set.union(*(part.skipped for part in parts)) == Damaged.bad


def test_no_more_batches_are_read_than_the_part_says():
    read = []

    class Counted(dataset.ArraySource):
        def read(self, indices):
            read.extend(indices)
            return super().read(indices)

    source = Counted(make_source(200).images, np.arange(200))
    for workers, prefetch in ((1, 1), (4, 2), (16, 3)):
        read.clear()
        part = loader.Split(
            source, make_config(placement="stream", workers=workers, prefetch=prefetch), train=True, seed=0
        )
        assert part.held_batches == prefetch + 1
        batches = part.train_batches(0, 20, 24)
        for taken in range(1, 5):
            next(batches)
            assert 24 * taken <= len(read) <= 24 * (taken + prefetch)
        batches.close()


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError("gone")])
def test_an_error_in_a_source_ends_the_batches_and_threads(error):
    class Failing(dataset.ArraySource):
        def read(self, indices):
            if any(self.labels[i] == 13 for i in indices):
                raise error
            return super().read(indices)

    part = loader.Split(
        Failing(make_source(21).images, np.arange(21)), make_config(placement="stream", workers=4), train=True, seed=0
    )
    with pytest.raises(type(error)) as found:
        list(part.train_batches(0, 3, 7))
    assert found.value is error
    until = time.monotonic() + 30
    while any(thread.name.startswith("worker-") for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_an_image_of_another_shape_and_one_that_is_too_large_are_named(monkeypatch):
    source = make_source(8)
    monkeypatch.setattr(
        source,
        "read",
        lambda indices: [{"image": np.zeros((8, 8, 3 if i == 5 else 1), np.uint8), "label": 0} for i in indices],
    )
    part = loader.Split(source, make_config(placement="stream", workers=1), train=False, seed=0)
    with pytest.raises(UserError, match=r"example 5 has the shape \[8, 8, 3\], but others of 'digits' \[8, 8, 1\]"):
        list(part.test_batches(8))

    def crop(*_, position, **__):
        raise MemoryError

    monkeypatch.setattr(crops, "crop", crop)
    with pytest.raises(MemoryError) as found:
        list(part.test_batches(8))
    assert found.value.__notes__ == ["while reading example 0"]


# ---------------------------------------------------------------- statistics and parts


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_equal_those_of_float_images(channels):
    images = make_source(40, channels=channels).images
    images[..., 0] //= 3
    mean, std = splits.channel_statistics(images)
    values = images.astype(np.float64) / 255
    assert mean.dtype == std.dtype == np.float32 and mean.shape == std.shape == (channels,)
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 51, 255])
def test_a_constant_channel_does_not_divide_by_zero(value):
    images = np.full((3, 4, 4, 2), value, np.uint8)
    mean, std = splits.channel_statistics(images)
    np.testing.assert_allclose(mean, value / 255, rtol=1e-6)
    assert (std >= 1e-6).all()
    assert abs(augment.normalize(jnp.asarray(images), mean, std)).max() < 0.1


def all_images(part: loader.Split) -> np.ndarray:
    return np.stack([example["image"] for example in part.source.read(range(len(part)))])


def test_channel_statistics_are_measured_on_the_training_part_alone():
    data = splits.Splits(make_config(), seed=0)
    values = all_images(data.parts["train"]) / 255
    np.testing.assert_allclose(data.normalization["mean"], [values.mean()], rtol=1e-6)
    np.testing.assert_allclose(data.normalization["std"], [values.std()], rtol=1e-6)


def test_pixel_normalization_takes_the_mean_image():
    data = splits.Splits(make_config(normalize="pixel"), seed=0)
    assert data.normalization["mean"].shape == (8, 8, 1)
    expected = (all_images(data.parts["train"]) / 255).mean(0)
    np.testing.assert_allclose(data.normalization["mean"], expected, rtol=1e-6)
    np.testing.assert_array_equal(data.normalization["std"], [1])


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_given_statistics_are_used_unchanged(placement):
    data = splits.Splits(make_config(mean=(0.25,), std=(0.5,), placement=placement), seed=0)
    assert {name: value.tolist() for name, value in data.normalization.items()} == dict(mean=[0.25], std=[0.5])
    data = splits.Splits(make_config(normalize="none", placement=placement), seed=0)
    assert {name: value.tolist() for name, value in data.normalization.items()} == dict(mean=[0], std=[1])


def test_statistics_of_a_stream_must_be_given():
    data = splits.Splits(make_config(placement="stream"), seed=0)
    with pytest.raises(UserError, match=r"give config\.data\.mean and std"):
        _ = data.normalization


def test_training_on_both_parts_joins_them_and_leaves_no_validation():
    apart, joined = (splits.Splits(make_config(train_on=on), seed=0) for on in ("train", "train+validation"))
    assert list(apart.parts) == ["train", "validation", "test"]
    assert set(joined.parts) == {"train", "test"}
    assert len(joined.parts["train"]) == 1258 + 180
    expected = np.concatenate([all_images(apart.parts[part]) for part in ("train", "validation")])
    np.testing.assert_array_equal(all_images(joined.parts["train"]), expected)
    np.testing.assert_array_equal(joined.parts["train"].resident["image"], expected)
    np.testing.assert_array_equal(all_images(joined.parts["test"]), all_images(apart.parts["test"]))
    # The statistics are measured on all training examples.
    np.testing.assert_allclose(joined.normalization["mean"], [(expected / 255).mean()], rtol=1e-6)


def test_the_data_seed_sets_order_crops_and_synthetic_images():
    fields = dict(name="synthetic", source="synthetic", num_images=(30, 5, 5), placement="stream", normalize="none")
    for extra in (dict(), dict(train_crop="random_resized", image_size=(6, 6))):
        one, again, other = (
            next(splits.Splits(make_config(**fields, **extra), seed=seed).parts["train"].train_batches(0, 1, 8))
            for seed in (0, 0, 1)
        )
        assert_same(one, again)
        assert not np.array_equal(one["image"], other["image"])
    one, other = (
        list(itertools.chain(*(b["index"] for b in make_part(30, seed=seed).train_batches(0, 3, 10))))
        for seed in (0, 1)
    )
    assert one != other and sorted(one) == sorted(other)
