"""Results from accounts: the largest batch, times, one screen and the table."""

import json
from dataclasses import replace

import pytest

from cnn_jax.ahead_of_time import report
from cnn_jax.ahead_of_time.compiling import Account, _needed
from cnn_jax.ahead_of_time.examination import estimated_batch, largest_batch
from cnn_jax.ahead_of_time.targets import parse
from cnn_jax.display.tables import render
from examinations import ACCOUNT, MEMORY, examination


def text(found, arguments=("--config=resnet50:imagenet2012",)):
    return "\n".join(f"{heading}: {line}" for heading, line in report.lines(found, arguments))


@pytest.mark.parametrize("limit", [0, 7, 8, 63, 100, 1000, 10_000])
@pytest.mark.parametrize("start", [8, 64, 4096])
def test_the_search_finds_the_largest_batch_to_an_eighth(limit, start):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= limit

    found = largest_batch(fits, start, 8, 5000)
    assert len(asked) <= 16 and len(set(asked)) == len(asked) and asked[0] == start
    if limit < 8:
        assert found is None
    else:
        best = min(limit, 5000) // 8 * 8
        assert found is not None and found % 8 == 0 and found <= best
        assert best - found <= max(8, best // 8)


def test_the_estimate_of_the_largest_batch_is_linear():
    train = examination().train
    room = MEMORY.limit - 10**8
    exact = room * 4096 // (10**9 + 10**7)
    assert estimated_batch(train, 16, 10**9) == exact // 2048 * 2048
    assert estimated_batch(train, 16, 5000) == 4096  # the data set has no more images: 128 on each of 16
    assert estimated_batch(replace(train, account=Account(fits=False, needed=0)), 16, 5000) is None


def test_speed_is_that_of_the_cycles():
    found = examination()
    seconds = 150e6 / (197e12 / (4 * 2 * 128**2))
    assert found.speed == pytest.approx(4096 / seconds)
    assert found.utilization == pytest.approx(6 * 4e9 * 256 / seconds / 197e12)
    assert examination("v6e:4x4").speed is None  # no clock


def test_one_screen_shows_the_results():
    said = text(examination())
    for part in (
        *("16 x TPU v5e, 4 machines of 4", "batches of 4,096 = 256 a device, bfloat16, mesh replicated"),
        *("fits: yes: 1.11 GB of 16.9 GB on each device, 6.6%", "about 8,192, an estimate"),
        *("5.8 TFLOPs, 0.94 of 6 x MACs; convolutions: 161 in bf16", "99.8 ms a step without communication"),
        *("of 197 TFLOP/s (nothing has run)", "exchanged: 1 all-reduce of bf16, 51 MB, 0 of them overlapped"),
        *("checkpoint: 200 MB, 0.2 s at 1 GB/s", "kimages/s on each machine"),
    ):
        assert part in said, part
    assert len(said.splitlines()) < 24 and "NOT donated" not in said and "twice" not in said


def test_problems_are_reported():
    assert "of which 90 MB are NOT donated" not in text(examination())
    assert "90 MB are NOT donated" in text(examination(account=replace(ACCOUNT, donated=10**7)))
    assert "XLA computes a part twice to fit" in text(examination(account=replace(ACCOUNT, flops=9e12)))
    assert "2 transfers to or from the host" in text(examination(account=replace(ACCOUNT, host_transfers=2)))
    large = examination(memory=replace(MEMORY, temporaries=2 * 10**10))
    assert "fits: NO: 20.1 GB of 16.9 GB" in text(large) and not large.fits
    refused = examination(account=Account(fits=False, needed=19 * 10**9))
    assert "NO: the compiler refuses it, because it needs 19 GB of temporaries" in text(refused) and not refused.fits
    assert "no estimate" in text(examination("h100x8", account=replace(ACCOUNT, cycles=None)))


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("v5e:2x2", "cnn_jax train --config=a"),
        ("v5e:4x4", "TPU=NAME ZONE=ZONE TOPOLOGY=v5e:4x4 launch/tpu_pod.sh --config=a --workdir=FOLDER"),
        ("h100x8", "cnn_jax train --config=a"),
        ("h100x16", "sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh --config=a"),
    ],
)
def test_the_command_to_launch_follows_the_machines(target, command):
    assert report.command(parse(target), ["--config=a"]) == command


def test_a_comparison_is_a_table_of_all():
    sheet = report.comparison([("this", examination()), ("mesh.preset=fsdp", examination(target="h100x8"))])
    assert [line[0] for line in sheet.lines] == ["this", "mesh.preset=fsdp"]
    assert all(len(line) == len(sheet.headings) for line in sheet.lines)
    assert "mesh.preset=fsdp" in render([sheet], "markdown")


def test_json_holds_every_number():
    found = json.loads(json.dumps(examination().as_json()))
    assert found["target"] == "v5e:4x4" and found["devices"] == 16 and found["fits"] is True
    assert found["steps"]["training"]["exchanges"] == [
        {"kind": "all-reduce", "dtype": "bf16", "count": 1, "bytes": 51_000_000, "overlapped": 0}
    ]
    assert found["steps"]["training"]["memory"]["total"] == MEMORY.total
    assert found["estimate"]["images_per_second"] == pytest.approx(examination().speed)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: E1000: the total memory required for HLO temporaries (18.17G) exceeds", 18.17 * 2**30),
        ("RESOURCE_EXHAUSTED: something else", 0),
        ("INVALID_ARGUMENT: no", None),
    ],
)
def test_a_refusal_for_memory_says_how_much(message, needed):
    assert _needed(message) == (needed if needed is None else int(needed))
