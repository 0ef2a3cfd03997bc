import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnn_jax import models, summary
from cnn_jax.models import layers
from cnn_jax.models.layers import BatchNorm, Conv, GlobalAveragePool, Keys, Linear, Pool
from cnn_jax.summary import LayerRow


class Small(nnx.Module):
    """One layer of each kind; `again` is called twice."""

    def __init__(self):
        options = dict(init="he_fan_in", rngs=Keys(jax.random.key(0)))
        self.conv = Conv(3, 8, 5, 2, 1, **options)
        self.pool = Pool("max", (2, 3), 2)
        self.blocks = nnx.List(
            [Conv(8, 6, 1, bias=False, **options), Conv(6, 4, (3, 1), padding=(1, 0), groups=2, **options)]
        )
        self.norm = BatchNorm(4, rngs=Keys(jax.random.key(1)))
        self.again = Conv(4, 4, 3, padding=2, dilation=2, **options)
        self.mean = GlobalAveragePool()
        self.linear = Linear(4, 7, **options)

    def __call__(self, x):
        x = self.norm(self.blocks[1](self.blocks[0](self.pool(self.conv(x)))))
        return self.linear(self.mean(self.again(self.again(x))))


# 12x15x3 -> conv 5x5/2 pad 1: (12+2-5)//2+1 = 5, (15+2-5)//2+1 = 7 -> pool 2x3/2: (5-2)//2+1 = 2, (7-3)//2+1 = 3
ROWS = [
    LayerRow("conv", "conv", "5x5/2, pad 1", (5, 7, 8), 5 * 5 * 3 * 8 + 8, 5 * 7 * 8 * 5 * 5 * 3),
    LayerRow("pool", "pool", "max 2x3/2, pad 0", (2, 3, 8), 0, 0),
    LayerRow("blocks/0", "conv", "1x1/1, pad 0", (2, 3, 6), 8 * 6, 2 * 3 * 6 * 8),
    LayerRow("blocks/1", "conv", "3x1/1, pad 1x0, 2 groups", (2, 3, 4), 3 * 3 * 4 + 4, 2 * 3 * 4 * 3 * 3),
    LayerRow("norm", "norm", "", (2, 3, 4), 8, 0),
    LayerRow("again", "conv", "3x3/1, pad 2", (2, 3, 4), 3 * 3 * 4 * 4 + 4, 2 * 3 * 4 * 3 * 3 * 4),
    LayerRow("again", "conv", "3x3/1, pad 2", (2, 3, 4), 3 * 3 * 4 * 4 + 4, 2 * 3 * 4 * 3 * 3 * 4),
    LayerRow("mean", "pool", "global average", (4,), 0, 0),
    LayerRow("linear", "linear", "", (7,), 4 * 7 + 7, 4 * 7),
]


def test_every_call_of_a_layer_is_a_row_with_the_numbers_counted_by_hand():
    assert summary.layer_table(Small, (12, 15, 3)) == ROWS
    assert [row.outputs for row in ROWS[:2]] == [280, 48]


def test_the_form_that_a_platform_computes_in_does_not_change_the_macs(monkeypatch):
    # On a CPU some convolutions are matrix products, elsewhere none.
    macs = {}
    for fast in (True, False):
        monkeypatch.setattr(layers.cpu, "use_fast_path", lambda fast=fast: fast)
        x = jax.ShapeDtypeStruct((1, 12, 15, 3), jnp.float32)
        graphdef, state = nnx.split(nnx.eval_shape(Small))
        jaxpr = jax.make_jaxpr(lambda state, x, g=graphdef: nnx.merge(g, state)(x))(state, x)
        convolutions = str(jaxpr).count("conv_general_dilated[")
        assert convolutions < 5 if fast else convolutions == 5
        macs[fast] = [row.macs for row in summary.layer_table(Small, (12, 15, 3))]
    assert macs[True] == macs[False] == [row.macs for row in ROWS]


def test_nothing_is_computed_for_the_table(monkeypatch):
    created = []

    def create():
        model = Small()
        created.append(model.conv.kernel[...])
        return model

    summary.layer_table(create, (12, 15, 3))
    assert len(created) == 1 and isinstance(created[0], jax.core.Tracer)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (7, "7 "),
        (999, "999 "),
        (1_000, "1 k"),
        (61_706, "61.7 k"),
        (416_520, "417 k"),
        (1_000_000, "1 M"),
        (25_557_032, "25.6 M"),
        (4_089_184_256, "4.09 G"),
        (0.125, "0.125 "),
    ],
)
def test_numbers_for_people_have_three_digits_and_a_prefix(value, text):
    assert summary.human(value) == text


def test_training_memory_is_what_one_counts_by_hand():
    rows = [
        LayerRow("conv", "conv", "", (4, 4, 2), 56, 0),
        LayerRow("norm", "norm", "", (4, 4, 2), 4, 0),
        LayerRow("linear", "linear", "", (10,), 330, 0),
    ]
    outputs, widest = 32 + 32 + 10, 32
    activations = (outputs + 2 * widest) * 5 * 2  # 5 images, 2 bytes a value
    parameters = 3 * 390 * 4  # parameters, gradient, momentum in float32
    given = dict(images=5, bytes_per_value=2, copies_of_parameters=3)
    assert summary.training_bytes(rows, **given) == activations + parameters == 1380 + 4680
    assert summary.training_bytes(rows, **given, resident_bytes=1000) == 7060


def test_training_memory_grows_with_everything():
    rows = summary.layer_table(lambda: models.create("lenet5"), (28, 28, 1))
    given = dict(images=64, bytes_per_value=2, copies_of_parameters=3, resident_bytes=0)
    base = summary.training_bytes(rows, **given)
    for field, more in (("images", 65), ("bytes_per_value", 4), ("copies_of_parameters", 4), ("resident_bytes", 1)):
        assert summary.training_bytes(rows, **(given | {field: more})) > base
    assert summary.training_bytes([*rows, ROWS[0]], **given) > base
    # Not below what must be there: parameters, gradient and momentum, and all outputs once.
    assert base > 3 * 4 * 61_706 + 64 * 2 * sum(row.outputs for row in rows)


def test_the_written_table_has_every_layer_and_the_totals(tmp_path):
    path = tmp_path / "layers.txt"
    summary.write(ROWS, path, "a small network")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].strip() == "a small network"
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        *("layer", "kind", "kernel/stride, padding", "output", "parameters", "MACs")
    ]
    body = [re.split(r"\s{2,}", line.strip()) for line in lines[2:] if line.strip()]
    assert body[0] == ["conv", "conv", "5x5/2, pad 1", "5x7x8", "608", "21,000"]
    assert [row[0] for row in body] == [row.name for row in ROWS] + ["total"]
    assert body[-1] == ["total", f"{sum(r.parameters for r in ROWS):,}", f"{sum(r.macs for r in ROWS):,}"]


def test_the_written_table_cuts_nothing_off(tmp_path):
    path = tmp_path / "layers.txt"
    rows = summary.layer_table(lambda: models.create("resnet50", groups=32, width_per_group=4), (224, 224, 3))
    summary.write(rows, path, "ResNeXt-50")
    text = path.read_text(encoding="utf-8")
    assert "…" not in text
    for row in rows:
        assert row.name in text and row.detail in text
    assert "4,230,479,872" in text and "25,028,904" in text
