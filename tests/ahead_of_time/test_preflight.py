"""`cnn_jax preflight`: its messages, and its results for programs that libtpu and XLA for CUDA compile."""

import importlib.util
import json
import sys

import pytest

from cnn_jax.ahead_of_time import overview, targets
from cnn_jax.ahead_of_time.examination import examine
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import UserError
from recipes import NETWORKS

HAS_TPU = importlib.util.find_spec("libtpu") is not None
HAS_CUDA = sys.version_info >= (3, 12) and importlib.util.find_spec("jax_cuda13_plugin") is not None
needs_tpu = pytest.mark.skipif(not HAS_TPU, reason="libtpu is not installed: pip install -e '.[tpu]'")
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="no jax for CUDA here: pip install -e '.[cuda]', Python 3.12")
SMALL_RESNET = ("cifar_resnet:cifar10", "model.depth=8", "precision=bfloat16")
FSDP = ("model.width=4.0", "mesh.preset=fsdp")
LARGE = 9 * (64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)  # values of the kernels that it then splits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of accounts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cnn_jax" / "preflight"


def found(recipe, *changes, target):
    return examine(Configuration.from_recipe(recipe, changes).config, targets.parse(target))


def rows(result, kind="all-reduce"):
    return [row for row in result.train.account.exchanges if row.kind == kind]


# ---------------------------------------------------------------- without a compiler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=lenet5",), "--for names the chips"),
        (("--config=lenet5", "--for=v9:1x1"), "must name a chip of v4, v5e"),
        (("more", "--for=v5e:1x1"), "unexpected argument 'more'"),
        (("--config=lenet5", "--for=v5e:1x1", "--output=x.md"), "--output goes with: cnn_jax preflight table"),
    ],
)
def test_a_mistake_is_one_message(refused, arguments, message):
    assert message in refused("preflight", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config=RECIPE"),
        (("--config=lenet5", "--compare=batch=2"), "no field 'batch'; did you mean 'batch_size'"),
        (("--config=lenet5", "--json=missing/x.json"), "there is no folder 'missing'"),
        (("table", "--network=lenet6"), "--network is 'lenet6', but must be one of"),
        (("table", "--config=lenet5"), "--config does not go with table"),
        (("table", "--output=x.txt"), "must be a file that ends in .md"),
    ],
)
def test_a_mistake_is_found_before_compiling(refused, monkeypatch, arguments, message):
    monkeypatch.setattr(targets, "check_installed", lambda target: None)
    assert message in refused("preflight", "--for=v5e:1x1", *arguments)


@pytest.mark.skipif(HAS_TPU, reason="libtpu is installed")
def test_a_missing_compiler_is_named(refused):
    assert "pip install 'cnn-jax[tpu]'" in refused("preflight", "--config=lenet5", "--for=v5e:2x2")


def test_the_table_has_every_network_but_the_longest():
    assert set(overview.networks()) | set(overview.LONGEST) == set(NETWORKS)
    assert overview.recipe("resnet50") == "resnet50:imagenet2012" and overview.recipe("toy") == "toy"


# ---------------------------------------------------------------- TPUs


@needs_tpu
@pytest.mark.slow
@pytest.mark.parametrize("slice_", ["1x1", "2x2"])
def test_lenet5_compiles_for_tpus(slice_):
    result = found("lenet5:mnist", target=f"v5e:{slice_}")
    train = result.train
    assert result.fits and train.not_donated == 0 and train.account.host_transfers == 0
    assert 0.85 < train.account.flops / train.model_flops < 1
    assert train.account.convolutions.keys() == {"f32"} and train.account.cycles > 0
    sums = {row.dtype: row for row in rows(result)}
    if slice_ == "1x1":
        assert not train.account.exchanges
    else:  # one sum of all gradients and the loss, and one of the hits
        assert sums["f32"].count == 1 and 61_706 * 4 <= sums["f32"].bytes <= 61_706 * 4 + 64
        assert set(sums) == {"f32", "s32"} and len(train.account.exchanges) == 2


@needs_tpu
@pytest.mark.slow
@pytest.mark.parametrize("slice_", ["1x1", "2x2"])
def test_a_small_resnet_compiles_for_tpus(slice_):
    """ResNet-8 in bfloat16: 7 layers of BatchNorm, and at most one convolution for each of 9 layers and each pass."""
    result = found(*SMALL_RESNET, target=f"v5e:{slice_}")
    train = result.train
    assert result.fits and train.not_donated == 0 and train.account.host_transfers == 0
    assert set(train.account.convolutions) == {"bf16"} and sum(train.account.convolutions.values()) <= 3 * 9
    count = sum(row.count for row in train.account.exchanges)
    assert count == 0 if slice_ == "1x1" else 0 < count <= 2 * 7 + 4
    assert all(row.kind == "all-reduce" for row in train.account.exchanges)


@needs_tpu
@pytest.mark.slow
def test_a_tpu_copies_no_data_set_to_gather_a_batch():
    result = found("cifar_resnet:cifar10", "model.depth=8", "model.width=0.25", target="v5e:1x1")
    assert result.train.memory.resident > 138e6 > 5 * result.train.memory.temporaries


@needs_tpu
@pytest.mark.slow
def test_fsdp_gathers_parameters_and_splits_no_convolution():
    result = found(*SMALL_RESNET, *FSDP, target="v5e:2x2")
    whole = found(*SMALL_RESNET, "model.width=4.0", target="v5e:2x2")
    assert {row.kind for row in result.train.account.exchanges} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert result.train.account.convolutions == whole.train.account.convolutions
    (gathers,) = rows(result, "all-gather")
    assert (gathers.count, gathers.dtype, gathers.bytes) == (4, "bf16", 2 * LARGE)
    assert result.train.memory.state < 0.4 * whole.train.memory.state
    assert result.train.memory.total < whole.train.memory.total


@needs_cuda
@pytest.mark.slow
def test_fsdp_on_gpus_scatters_the_sums_of_gradients():
    result = found(*SMALL_RESNET, *FSDP, target="h100x4")
    (gathers,), (sums,) = rows(result, "all-gather"), rows(result, "reduce-scatter")
    assert (gathers.dtype, gathers.bytes) == (sums.dtype, sums.bytes) == ("bf16", 2 * LARGE)


@needs_tpu
@pytest.mark.slow
def test_groups_of_a_device_exchange_no_statistics():
    count = {}
    for group in (0, 8):
        result = found(*SMALL_RESNET, f"norm_group={group}", target="v5e:2x2")
        count[group] = sum(row.count for row in result.train.account.exchanges)
    assert count[8] <= 4 < count[0]


@needs_tpu
@pytest.mark.slow
def test_the_step_of_a_tpu_has_no_kernels_of_cpus(small_config):
    """The program is the same whether or not the host may use its own kernels."""
    accounts = []
    for kernels in (True, False):
        small_config.cpu_kernels, small_config.accumulation = kernels, 2
        accounts.append(examine(small_config, targets.parse("v5e:1x1")).train.account)
    assert accounts[0] == accounts[1]  # the second one comes from the cache


@needs_tpu
@pytest.mark.slow
def test_a_program_that_does_not_fit_is_reported(call, cache):
    """65,536 images of 512 x 512 for one chip: 17 GB by themselves."""
    arguments = ("--config=lenet5:synthetic", "--for=v5e:1x1", "--config.data.image_size=(512,512)")
    sizes = ("--config.data.num_images=(65536,16,16)", "--config.data.placement=stream", "--config.batch_size=65536")
    said = call("preflight", *arguments, *sizes, "--config.model.width=0.5", code=2).out
    assert "fits        NO: " in said


@needs_tpu
@pytest.mark.slow
def test_the_command_prints_a_screen_and_json_from_the_cache(call, cache, tmp_path):
    arguments = ("preflight", "--config=lenet5:mnist", "--for=v5e:2x2", f"--json={tmp_path / 'x.json'}")
    first = call(*arguments).out
    kept = sorted(cache.iterdir())
    assert len(kept) == 2 and call(*arguments).out == first and sorted(cache.iterdir()) == kept
    assert "fits        yes" in first and "launch      cnn_jax train --config=lenet5:mnist" in first
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert numbers["steps"]["training"]["fits"] and numbers["level"] == "quick" and "libtpu" in numbers["compiler"]
    kept[0].write_text("{")  # damaged: it is compiled again
    assert "fits        yes" in call(*arguments).out and json.loads(kept[0].read_text())


@needs_tpu
@pytest.mark.slow
def test_a_topology_that_libtpu_does_not_know_is_refused(refused):
    assert "--for is 'v5e:3x5', which the compiler refuses" in refused("preflight", "--config=lenet5", "--for=v5e:3x5")


@needs_tpu
@pytest.mark.slow
def test_a_comparison_of_batches_is_a_table(call):
    said = call("preflight", "--config=lenet5:mnist", "--for=v5e:1x1", "--compare=batch_size=256").out
    assert [line.split()[:3] for line in said.rstrip().splitlines()[-2:]] == [
        ["this", "v5e:1x1", "128"],
        ["batch_size=256", "v5e:1x1", "256"],
    ]


# ---------------------------------------------------------------- GPUs


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100x1", "h100x8", "a100x2", "h200x1"])
def test_lenet5_compiles_for_gpus(target):
    result = found("lenet5:mnist", target=target)
    assert result.fits and result.train.not_donated == 0 and result.train.account.host_transfers == 0
    assert result.speed is None and result.train.account.flops is None
    if result.target.count > 1:
        (sums,) = [row for row in rows(result) if row.dtype == "f32"]
        assert 61_706 * 4 <= sums.bytes <= 61_706 * 4 + 64


# ---------------------------------------------------------------- nightly


@pytest.mark.nightly
@pytest.mark.parametrize("target", [pytest.param("v5e:2x2", marks=needs_tpu), pytest.param("h100x8", marks=needs_cuda)])
@pytest.mark.parametrize("network", overview.networks())
def test_every_network_compiles(network, target):
    """For one target at a time; a network that does not fit is reported, which is not an error."""
    try:
        result = found(overview.recipe(network), target=target)
    except UserError as error:  # a batch that four chips cannot share
        assert "must be divisible" in str(error)
        return
    assert result.train.compiles and result.evaluation.compiles and result.train.account.host_transfers == 0
    assert result.train.not_donated == 0


@pytest.mark.nightly
@pytest.mark.parametrize("target", [pytest.param("v5e:2x2", marks=needs_tpu), pytest.param("h100x4", marks=needs_cuda)])
@pytest.mark.parametrize("changes", [("mesh.preset=fsdp",), ("mesh.preset=fc", "mesh.model=4")])
def test_presets_split_the_state(changes, target):
    whole = found("alexnet:imagenet2012", "precision=bfloat16", target=target)
    split = found("alexnet:imagenet2012", "precision=bfloat16", *changes, target=target)
    assert split.fits and split.train.not_donated == 0
    assert split.train.memory.state < 0.5 * whole.train.memory.state
    assert {row.kind for row in split.train.account.exchanges} > {"all-reduce"}


@needs_tpu
@pytest.mark.nightly
@pytest.mark.parametrize("protocol", ["10-crop", "144-crop", "dense"])
def test_protocols_compile(protocol):
    result = found("resnet18:imagenet2012", f"eval.protocol={protocol}", "eval.batch_size=64", target="v5e:1x1")
    assert result.protocol is not None and result.protocol.fits


@needs_tpu
@pytest.mark.nightly
@pytest.mark.parametrize("target", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_other_tpus_compile(target):
    result = found("lenet5:mnist", target=target)
    assert result.fits and result.train.not_donated == 0


@needs_tpu
@pytest.mark.nightly
def test_the_largest_batch_is_found_by_compiling():
    config = Configuration.from_recipe("lenet5:mnist").config
    result = examine(config, targets.parse("v5e:1x1"), search=True)
    assert result.is_compiled and result.largest is not None and result.largest > 10_000
