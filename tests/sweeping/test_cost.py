import numpy as np
import pytest

from cnn_jax.sweeping import cost
from experiments.bottlenecks import PARTS


def test_the_lectures_example_has_its_counts_and_is_cheaper_reduced(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 1)
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    reduced, direct = cost.measure(PARTS[:2], batch=1)
    # 28x28 positions: 192*16 + 25*16*32 against 25*192*32 weights.
    assert (direct["parameters"], direct["macs"]) == (153_600, 120_422_400)
    assert (reduced["parameters"], reduced["macs"]) == (3_072 + 12_800, 2_408_448 + 10_035_200)
    for row in (reduced, direct):
        assert row["forward_seconds"] > 0 and row["both_seconds"] > 0 and row["both_bytes"] > row["forward_bytes"] > 0
    sheet = cost.sheet([reduced, direct])
    assert (
        sheet.lines[0][:2] == ("5x5, 192 to 32", "reduced")
        and "(x" in sheet.lines[1][4]
        and "(x" not in sheet.lines[0][4]
    )


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.group} {part.label}")
def test_every_part_is_a_module_that_can_be_counted(part):
    from cnn_jax.analysis.layer_table import layer_table, totals

    sums = totals(layer_table(part.make, part.input_shape))
    pairs = {one.label: totals(layer_table(one.make, one.input_shape)).macs for one in PARTS if one.group == part.group}
    assert sums.macs > 0 and pairs["direct"] > pairs["reduced"]


def test_the_gradient_reaches_the_input_and_the_parameters():
    function, given = cost.compiled(PARTS[0], 2)["both"]
    value, (weights, image) = function(*given)
    assert np.isfinite(value) and image.shape == (2, 28, 28, 192) and float(np.abs(image).max()) > 0
    import jax

    assert all(float(np.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(weights))


def test_a_record_fits_its_parts_and_its_machine_only(monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda parts: [{"group": part.group, "label": part.label} for part in parts])
    found = cost.record(PARTS[:2])
    assert cost.fits(found, PARTS[:2]) and not cost.fits(found, PARTS[:3])
    assert "cores" in cost.place(found) and "jax" in cost.place(found)
    assert not cost.fits(found | {"machine": {"processor": "another"}}, PARTS[:2])
