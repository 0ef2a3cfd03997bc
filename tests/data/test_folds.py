"""Cross-validation: folds are disjoint, complete, of equal shares of every class, and chosen by number or by seed."""

import numpy as np
import pytest

from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources
from cnn_jax.data.sources import custom, published
from cnn_jax.reporting import runs
from cnn_jax.training import loop
from cnn_jax.training.config_check import check_config
from cnn_jax.training.session import Options

COUNTS = (50, 23, 4)  # examples of each class


def opened(fold, seed=0, **fields):
    """Opens examples whose pixel is their number, 60 in train and 17 in validation, of uneven classes."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(2, 1)
    data = {"train": (images[:60], labels[:60]), "validation": (images[60:], labels[60:]), "test": (images, labels)}
    config = get_config("given").data
    config.update(dict(channels=1, fold=fold) | fields)
    opener = lambda config, seed: custom.open_given(data, ("train", "test"), config, seed)  # noqa: E731
    return sources.open_dataset(config, seed, opener=opener)


def numbers(source):
    return [int(example["image"].ravel()[0]) for example in source.read(range(len(source)))]


@pytest.mark.parametrize("count", [2, 4, 5])
def test_folds_are_disjoint_complete_and_even_in_every_class(count):
    found = [opened(f"{number}/{count}") for number in range(1, count + 1)]
    folds = [one.parts["validation"] for one in found]
    assert sorted(n for fold in folds for n in numbers(fold)) == list(range(sum(COUNTS)))
    for one, fold in zip(found, folds, strict=True):
        assert sorted(numbers(fold) + numbers(one.parts["train"])) == list(range(sum(COUNTS)))
        assert len(one.parts["test"]) == sum(COUNTS)
    sizes = np.array([np.bincount(dataset.labels_of(fold), minlength=3) for fold in folds])
    assert (sizes.max(0) - sizes.min(0)).max() <= 1
    assert np.ptp(sizes.sum(1)) <= 1


def test_labels_stay_with_their_examples():
    plain = opened("")
    known = {
        n: e["label"]
        for part in ("train", "validation")
        for n, e in zip(numbers(plain.parts[part]), plain.parts[part].read(range(len(plain.parts[part]))), strict=True)
    }
    for part in ("train", "validation"):
        source = opened("3/4").parts[part]
        labels = [example["label"] for example in source.read(range(len(source)))]
        assert labels == [known[n] for n in numbers(source)] == dataset.labels_of(source).tolist()


def test_the_seed_may_choose_the_fold_but_not_what_is_in_it():
    for seed in (0, 3, 8):
        by_seed, by_number = opened("seed/5", seed), opened(f"{seed % 5 + 1}/5", seed=99)
        assert numbers(by_seed.parts["validation"]) == numbers(by_number.parts["validation"])
        assert f"fold {seed % 5 + 1} of 5 of train and validation validates" in by_seed.description


def test_sizes_known_without_the_data_are_those_of_the_folds():
    config = get_config("cifar10").data
    config.fold = "3/7"
    found = published.open_sizes(config)
    assert {part: len(source) for part, source in found.parts.items()} == dict(train=42857, validation=7143, test=10000)
    assert [dataset.fold_size(50_000, i, 7) for i in range(7)] == [7143] * 6 + [7142]


@pytest.mark.parametrize("fold", ["5", "0/5", "6/5", "1/1", "a/5", "1/5/2", "seed", "-1/5"])
def test_what_is_no_fold_is_refused(fold):
    config = recipes.get_config("lenet5")
    config.data.fold = fold
    with pytest.raises(UserError, match=r"fold is .*, but must be empty, or such as 2/5 or seed/5"):
        check_config(config)


def test_a_fold_needs_a_validation_part():
    config = recipes.get_config("lenet5")
    config.data.update(dict(fold="1/5", train_on="train+validation"))
    with pytest.raises(UserError, match="leaves no validation part: set it to 'train'"):
        check_config(config)


@pytest.mark.slow
def test_the_folds_of_all_seeds_are_one_group_of_runs(small_config, tmp_path, console):
    small_config.duration = "3 steps"
    small_config.data.fold = "seed/3"
    for seed in range(3):
        small_config.seed = seed
        loop.run(small_config, tmp_path / str(seed), Options(console=console))
    found = [runs.read(tmp_path / str(seed)) for seed in range(3)]
    assert len({run.data["examples.validation"] for run in found}) == 2  # 480, 479, 479 of 1,438
    (group,), left_out = runs.group(found)
    assert len(group.runs) == 3 and not left_out
