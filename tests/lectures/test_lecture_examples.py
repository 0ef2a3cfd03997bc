"""The small examples of the lectures: each prints and draws what its slide shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cnn_jax
from experiments.lectures import (
    axes,
    backprop,
    convolution,
    dilation,
    feedforward,
    layers,
    pictures,
    pooling,
    sizes,
    toy,
)

REFERENCE = Path(cnn_jax.__file__).parents[2] / "shared" / "reference" / "lectures.md"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("convolution", "learned from 64 images"),
        ("sizes", "does not fit 7 pixels"),
        ("pooling", "6.25"),
        ("dilation", "[3, 7, 15, 31]"),
        ("axes", "at most 1"),
        ("feedforward", "W^T x is the convolution: True"),
        ("flattened", "equal: True"),
        ("matched_filters", "row 8, column 3"),
        ("toy", "65 of 81 pixels"),
        ("backprop", "0.59"),
        pytest.param("noise", "features learned", marks=pytest.mark.slow),
        pytest.param("pixels", "28,326", marks=pytest.mark.slow),
        pytest.param("filters", "scharr", marks=pytest.mark.slow),
    ],
)
def test_example_prints_and_draws(name, printed, tmp_path, capsys):
    module = __import__(f"experiments.lectures.{name}", fromlist=["run"])
    layers.call(module.run, module.__doc__, [f"--plot={tmp_path}/a.png"])
    assert printed in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_every_example_has_a_committed_picture():
    committed = Path(cnn_jax.__file__).parents[1] / "docs" / "pictures" / "lectures"
    assert {path.stem for path in committed.iterdir()} == set(pictures.EXAMPLES)
    for name in pictures.EXAMPLES:
        assert callable(__import__(f"experiments.lectures.{name}", fromlist=["run"]).run)
        assert 5_000 < (committed / f"{name}.png").stat().st_size < 60_000


def test_pictures_of_all_examples_are_drawn_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "EXAMPLES", ("pooling", "sizes"))
    pictures.main([str(tmp_path / "new")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"{name}.png") for name in pictures.EXAMPLES]
    assert all((tmp_path / "new" / f"{name}.png").stat().st_size > 5000 for name in pictures.EXAMPLES)


def test_each_weight_moved_up_and_down_gives_the_gradient():
    by_hand, by_backprop = backprop.gradients()
    assert by_hand.size == 30 + 98  # the toy's parameters
    np.testing.assert_allclose(by_hand, by_backprop, atol=1e-4 * np.abs(by_backprop).max())


def test_a_deformed_x_gets_the_votes_of_an_x():
    (x, o), (deformed_x, deformed_o) = toy.votes(toy.X), toy.votes(toy.DEFORMED)
    assert x == pytest.approx(1) and toy.votes(toy.RING) == pytest.approx((o, 1))
    assert deformed_x > deformed_o + 0.1


def test_channels_are_summed():
    image = np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3, 3))[:, :, 0]
    expected = np.einsum("hwijc,ijc->hw", windows, kernel)
    np.testing.assert_allclose(layers.convolve(image, kernel), expected, atol=1e-5)


def test_examples_are_those_of_the_reference():
    if not REFERENCE.is_file():
        pytest.skip("the reference of the lectures is not next to the clone")
    text = REFERENCE.read_text(encoding="utf-8")
    worked = json.loads(re.search(r"## Worked examples\n\n```json\n(.*?)\n```", text, re.S)[1])

    def maps(image, kernel, **options):
        return layers.convolve(image, kernel, **options).astype(int).tolist()

    vertical = convolution.FILTERS["vertical"]
    assert maps(convolution.IMAGE, vertical) == worked["conv6x6_valid"]
    assert maps(convolution.IMAGE, vertical, padding=1) == worked["conv6x6_pad1"]
    assert maps(convolution.IMAGE, vertical, stride=3) == worked["conv6x6_stride3"]
    for name in ("sobel", "scharr", "horizontal"):
        assert maps(convolution.IMAGE, convolution.FILTERS[name]) == worked[f"conv6x6_{name}"]
        assert maps(convolution.EDGE, convolution.FILTERS[name]) == worked["edge"][name]
    assert maps(sizes.PADDED, sizes.CROSS, padding=1) == worked["padding"]["correct_for_slide_image"]
    assert maps(axes.STRIDED, axes.KERNEL, stride=2, padding=1) == worked["conv3d_slide"]["correct"]
    assert layers.pool(pooling.IMAGE, "average", 2, 2).tolist() == worked["pool"]["seed001_avg"]
    assert layers.pool(pooling.IMAGE, "max", 2, 2).tolist() == worked["pool"]["seed001_max"]
    assert sizes.shrinking(32, 5) == worked["sizes"]["shrink_5x5_from_32"]
    assert [dilation.field((1, 2, 4, 8)[:i]) for i in range(1, 5)] == worked["dilation"]["stack_rates_1_2_4_8_rf"]
    assert np.count_nonzero(feedforward.matrix(np.ones((3, 3)), 6)) == worked["edge"]["toeplitz_nonzeros"]
    assert list(backprop.errors().values()) == [worked["backprop"][name] for name in ("X", "O", "total")]
    for name, short in (("diagonal", "diag"), ("crossing", "cross"), ("antidiagonal", "anti")):
        answers = toy.maps(toy.X)[name]
        assert np.rint(9 * answers).astype(int).tolist() == worked["toy"]["values_are_ninths"][short]
        assert np.rint(9 * toy.pooled(answers)).astype(int).tolist() == worked["toy"]["pool_ninths"][short]
        largest = worked["toy"]["deformed_X"]["max_response_ninths"][short]
        assert round(9 * float(toy.maps(toy.DEFORMED)[name].max())) == largest
