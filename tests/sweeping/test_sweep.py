import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax.core import files

ROOT = Path(__file__).parents[2]
SMALL = "tests/helpers/small_experiment.py"


def sweep(*arguments, timeout=600):
    line = [sys.executable, "-W", "ignore", "-m", "experiments.sweep", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_a_sweep_runs_goes_on_and_reports(tmp_path):
    folder = tmp_path / "sweep"
    first = sweep(SMALL + ":full", f"--folder={folder}", "--seeds=1", "--jobs=2")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "Is wide better than narrow?" in first.stdout and "2 runs" in first.stdout
    assert "model.width: 0.05 for 0.1" in first.stdout
    for arm in ("width=0.1", "width=0.05"):
        run = folder / arm / "seed-0"
        config = json.loads((run / "config.json").read_text())
        assert config["model"]["width"] == float(arm.split("=")[1]) and config["seed"] == 0
        assert set(json.loads((run / "layers.json").read_text())) == {"first", "last"}
        kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert kinds[-2:] == ["train_part", "test"]
    assert {path.name for path in folder.glob("*.png")} == {"curves.png", "cost.png", "layers.png"}
    assert "one seed says nothing" in (folder / "report.md").read_text()

    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-0/metrics.jsonl")}
    again = sweep(SMALL + ":full", f"--folder={folder}", "--seeds=2", "--only=0.05")
    assert again.returncode == 0 and "2 runs in" in again.stdout and "1 of them finished" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (folder / "width=0.05" / "seed-1" / "config.json").exists() and not (
        folder / "width=0.1" / "seed-1"
    ).exists()
    (folder / "report.html").unlink()
    made = sweep(SMALL + ":full", f"--folder={folder}", "--report")
    assert made.returncode == 0 and (folder / "report.html").exists()
    text = (folder / "report.md").read_text()  # the seed that one arm alone has is no pair
    assert "1 seed" in text or "one seed says nothing" in text

    other = sweep(SMALL, f"--folder={folder}")
    assert other.returncode == 2 and "config.eval.layers: True in the folder, False now" in other.stderr


def test_a_dry_run_prints_the_command_of_every_arm_and_writes_nothing(tmp_path):
    result = sweep(SMALL, "--dry-run", f"--folder={tmp_path / 'x'}")
    commands = [line for line in result.stdout.splitlines() if line.startswith("python -m cnn_jax.main")]
    assert result.returncode == 0 and len(commands) == 2 and not (tmp_path / "x").exists()
    assert "--config.model.width=0.05" in commands[1] and commands[1].endswith("--config.seed=SEED")


def test_the_list_has_every_question():
    printed = sweep("--list").stdout
    assert "experiments/residual.py\n    Do residual connections let depth help?" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one experiment"),
        (("experiments/residul.py",), "did you mean 'experiments/residual.py'?"),
        ((SMALL, "--only=nothing"), "matches none of the arms: width=0.1; width=0.05"),
        ((SMALL, "--only=("), "is no regular expression"),
        ((SMALL, "--report"), "run the sweep first"),
        ((SMALL, "--report", "--only=0.1"), "--report takes --seeds and --folder only"),
        ((SMALL, "--submit=timeout_min=5"), "--submit goes with --launcher=slurm"),
        ((SMALL, "--launcher=slurm", "--jobs=2"), "--jobs goes without --launcher"),
        ((SMALL, "--jobs=999"), "--jobs is 999, but this process may use"),
        ((SMALL, "--seeds=0"), "--seeds is 0, but must be above 0"),
        ((SMALL, "--config=configs/mlp.py"), "an experiment names its own"),
        ((SMALL + ":nonsense",), "nonsense"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message, tmp_path):
    result = sweep(*arguments, f"--folder={tmp_path / 'x'}")
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()


def test_two_sweeps_do_not_share_a_folder(tmp_path):

    with files.locked(tmp_path):
        result = sweep(SMALL, f"--folder={tmp_path}")
    assert result.returncode == 2 and "is in use by process" in result.stderr and "--folder" in result.stderr
