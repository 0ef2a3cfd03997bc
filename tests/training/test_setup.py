import jax
import pytest
from flax import nnx

from cnn_jax.analysis.layer_table import LayerRow
from cnn_jax.core.errors import UserError
from cnn_jax.nn import cpu
from cnn_jax.nn.layers import BatchNorm
from cnn_jax.training.setup import build, check_batch_norm, check_divisible, check_sizes
from cnn_jax.training.state import States


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "devices", "nearest"),
    [(60, 1, 8, "56 and 64"), (6, 1, 8, "8 and 8"), (64, 2, 48, "96 and 96"), (100, 4, 8, "96 and 128")],
)
def test_a_batch_that_does_not_divide_is_an_error_with_the_nearest_sizes(
    small_config, batch_size, accumulation, devices, nearest
):
    small_config.batch_size, small_config.accumulation = batch_size, accumulation
    with pytest.raises(UserError, match=rf"config\.batch_size is {batch_size}.*the nearest are {nearest}"):
        check_divisible(small_config, devices)


def test_a_batch_that_divides_passes(small_config):
    check_divisible(small_config, 8)


def test_the_estimate_of_memory_is_near_what_the_compiler_plans(small_config):
    small_config.model.width = 2.0  # activations dominate
    run = build(small_config)
    state = jax.eval_shape(States(run).create)
    batch = next(run.data.parts["train"].train_batches(0, 1, small_config.batch_size))
    images = run.resident("train")
    plan = run.train_step(States(run).shardings).lower(state, batch, images).compile().memory_analysis()
    planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    assert 0.5 < States(run).memory_bytes() / planned < 2


def test_periods_fall_on_the_nearest_step(small_config):
    run = build(small_config)  # 1,258 images, batches of 64: 19.66 steps an epoch
    assert [step for step in range(1, 100) if run.is_due(step, "1 epochs")] == [20, 39, 59, 79, 98]
    assert [step for step in range(1, 5) if run.is_due(step, "1 examples")] == [1, 2, 3, 4]
    assert run.to_steps("2 epochs") == 39


@pytest.mark.skipif(cpu.target() is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")
@pytest.mark.parametrize("kernels", [True, False])
def test_the_switch_chooses_the_form_of_the_training_step(small_config, kernels):
    small_config.cpu_kernels = kernels
    run = build(small_config)
    states = States(run)
    batch = next(run.data.parts["train"].train_batches(0, 1, small_config.batch_size))
    state = jax.eval_shape(states.create)
    text = run.train_step(states.shardings).lower(state, batch, run.resident("train")).as_text()
    assert (cpu.target() in text) is kernels and ("stablehlo.convolution" in text) is not kernels


@pytest.mark.skipif(cpu.target() is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")
@pytest.mark.parametrize("kernels", [True, False])
def test_micro_batches_are_a_loop_where_there_are_kernels(small_config, kernels):
    small_config.cpu_kernels = kernels

    def loops(accumulation):
        small_config.accumulation = accumulation
        run = build(small_config)
        states = States(run)
        batch = next(run.data.parts["train"].train_batches(0, 1, small_config.batch_size))
        state = jax.eval_shape(states.create)
        lowered = run.train_step(states.shardings).lower(state, batch, run.resident("train"))
        return lowered.as_text().count("stablehlo.while")

    assert loops(4) - loops(1) == (1 if kernels else 0)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (4, 4)])
def test_batch_norm_of_one_value_is_refused(small_config, batch_size, accumulation):
    rows = [
        LayerRow("norm1", "norm", "", (1, 1, 6), 12, 0, statistics=12),
        LayerRow("norm2", "norm", "", (2, 1, 6), 12, 0, statistics=12),
    ]
    small_config.batch_size, small_config.accumulation = batch_size, accumulation
    with pytest.raises(UserError, match=rf"norm1 sees one value .* at least {2 * accumulation}"):
        check_batch_norm(small_config, rows, ())
    check_batch_norm(small_config, rows, ("norm1",))  # frozen
    check_batch_norm(small_config, rows[1:], ())
    small_config.batch_size = 2 * accumulation
    check_batch_norm(small_config, rows, ())
    small_config.norm_group = 1
    with pytest.raises(UserError, match="norm_group is 1, so the BatchNorm norm1 sees one value"):
        check_batch_norm(small_config, rows, ())


def test_groups_of_statistics_reach_the_step_of_training(small_config):
    small_config.norm_group = 16
    with pytest.raises(UserError, match="norm_group is 16, but lenet5 has no"):
        build(small_config)
    small_config.model.norm = "batch"
    run = build(small_config)
    model = nnx.merge(run.network.train, run.params, run.stats)
    assert {layer.group for _, layer in nnx.iter_graph(model) if isinstance(layer, BatchNorm)} == {16}


def test_strict_sizes_refuse_what_strides_drop(small_config):
    rows = [LayerRow("conv1", "conv", "", (54, 54, 96), 1, 1, dropped=(1, 1))]
    check_sizes(small_config, rows)
    small_config.strict_sizes = True
    with pytest.raises(UserError, match=r"strict_sizes is True, .* drop positions at the border: conv1 \(1\)"):
        check_sizes(small_config, rows)


def test_an_evaluation_batch_is_not_larger_than_its_part(small_config):
    small_config.eval.batch_size = 10**9
    assert build(small_config).config.eval.batch_size == 1258  # the largest part
    assert small_config.eval.batch_size == 10**9


@pytest.mark.skipif(cpu.target() is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")
def test_the_form_of_the_step_follows_the_devices(small_config):
    """The devices need not exist: these differ from CPUs only in their names."""

    class Chip:
        platform, device_kind, process_index = "gpu", "a chip", 0

        def __init__(self, number):
            self.id = number

    setup = build(small_config, devices=[Chip(number) for number in range(8)])
    assert setup.mesh.size == 8 and setup.network.kernels is False
    assert States(setup).memory_bytes() < States(build(small_config)).memory_bytes()
    with pytest.raises(UserError, match="divisible by 128 devices"):
        build(small_config, devices=[Chip(number) for number in range(128)])
