"""What is measured of one GPU, tried on a CPU with tiny sizes."""

import json

import pytest

from cnn_jax.benchmarking import gpu
from cnn_jax.benchmarking.gpu import Part


def test_the_parts_are_those_of_the_papers_recipe_and_sizes(tmp_path):
    found = gpu.parts(tmp_path, small=False, seconds=2.0)
    resnet50, resnet20, larger, *runs = found
    assert "--config.batch_size=256" in resnet50.words and "--config.batch_size=1024" in larger.words
    assert "--only=step,both,fused" in resnet20.words and "--config=resnet20:cifar10" in resnet20.words
    assert len({run.workdir for run in runs}) == 5  # nothing but the seed differs from the recipe
    assert {word.partition("=")[0] for run in runs for word in run.words} == {
        *("train", "--config", "--config.seed", "--workdir"),
    }


def test_a_part_that_fails_or_takes_too_long_says_why(tmp_path):
    assert "did you mean" in gpu.one(Part("a", ("benchmark", "--config=resnet5")), 60)["why"]
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 9}\n')
    late = gpu.one(Part("b", ("train", "--config=lenet5", f"--workdir={tmp_path}"), tmp_path), 0.01)
    assert late == {"why": "it was not done after 0 s", "result": {"train": {"kind": "train", "step": 9}}}


def test_the_table_has_speeds_accuracies_and_what_is_missing():
    speed = {"images_per_second": {"step": {"median": 1234.5}, "data": None}, "share_of_matmul_peak": 0.25}
    parts = [
        {"name": "a", "result": speed},
        {"name": "b", "result": {"test": {"error": 0.0875}}},
        {"name": "c", "why": "one\nno time was left"},
    ]
    assert gpu.lines({"parts": parts}) == [
        ("a", "1,234", "images/s, step"),
        ("a", "25.0%", "of the peak of matrix products"),
        ("b", "91.25%", "test accuracy"),
        ("c", "-", "no time was left"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gpu", "--output=x.txt"), "--output is 'x.txt', but must be a file that ends in .json"),
        (("gpu",), "jax computes on 'cpu', not on a GPU: --small tries the command here"),
        (("gpu", "--minutes=0"), "--minutes is 0.0, but must be above 0"),
        (("gpu", "--config=lenet5"), "--config does not go with gpu"),
        (("--config=lenet5", "--small"), "--small goes with gpu"),
    ],
)
def test_mistake_gets_one_message(refused, words, message):
    assert message in refused("benchmark", *words)


@pytest.mark.nightly
def test_all_of_it_runs_on_a_cpu_with_tiny_sizes(call, tmp_path):
    output = tmp_path / "gpu.json"
    printed = call("benchmark", "gpu", "--small", "--seconds=0.05", "--minutes=15", f"--output={output}")
    found = json.loads(output.read_text())["parts"]
    assert [part.get("why") for part in found] == [None] * 4
    assert "test accuracy" in printed.out and "images/s, fused" in printed.out
