"""The numbers of scaling, never how good they are."""

import json

import pytest

from cnn_jax.benchmarking import scaling
from cnn_jax.core.errors import UserError


def test_weak_and_strong_batches_meet_at_the_largest_number_of_devices():
    assert scaling.batch_sizes(64, [1, 2, 8]) == {"strong": [64, 64, 64], "weak": [8, 16, 64]}


@pytest.mark.parametrize("counts", [[], [1], [2, 4], [1, 4, 2], [1, 2, 2]])
def test_device_counts_must_start_at_1_and_grow(counts):
    with pytest.raises(UserError, match="must be 1 and larger numbers of devices"):
        scaling.batch_sizes(64, counts)


def test_ratios_are_taken_within_a_round():
    first, second = scaling.rows([1, 4], [8, 32], [[10.0, 20.0, 40.0], [30.0, 40.0, 160.0]])
    assert first["ratio"] == {"median": 1, "min": 1, "max": 1} and first["images_per_second"]["median"] == 20
    assert second["ratio"] == {"median": 3, "min": 2, "max": 4}
    assert second["efficiency"] == {"median": 0.75, "min": 0.5, "max": 1}
    assert (second["devices"], second["batch_size"]) == (4, 32)


@pytest.mark.nightly
def test_each_number_of_devices_is_measured(call):
    words = ("--config=lenet5", "--config.model.width=0.25", "scaling", "--devices=1,2", "--seconds=0.2", "--json")
    found = json.loads(call("benchmark", *words).out)
    assert (found["platform"], found["forced"], found["repeats"]) == ("cpu", True, 5)
    for kind, batches in (("strong", [64, 64]), ("weak", [32, 64])):
        rows = found["scaling"][kind]
        assert [row["devices"] for row in rows] == [1, 2] and [row["batch_size"] for row in rows] == batches
        assert rows[0]["ratio"] == {"median": 1, "min": 1, "max": 1}
        for row in rows:
            assert 0 < row["images_per_second"]["min"] <= row["images_per_second"]["max"]
    assert "this does not show how a network scales" in scaling.note(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scaling", "--devices=1,3"), "config.batch_size is 64, but must be divisible by the 3 of --devices"),
        (("scaling", "--devices=1,x"), "--devices is '1,x', but must be numbers of devices"),
        (("scaling", "--devices="), "but must be 1 and larger numbers"),
        (("scaling", "--against=flax"), "--against does not go with scaling"),
        (("--devices=1,2",), "--devices goes with scaling"),
        (("--model",), "--model goes with scaling"),
        (("scaling", "--model"), "--config does not go with --model"),
        (("scaling", "--peak=1"), "--peak goes with scaling --model"),
        (("scalign",), "unexpected argument 'scalign'"),
        (("scaling", "--config.optim.learning_rate=-1.0"), "config.optim.learning_rate"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message):
    assert message in refused("benchmark", "--config=lenet5", *arguments)
