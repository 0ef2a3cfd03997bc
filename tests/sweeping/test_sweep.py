import json

import pytest

from cnn_jax.core.files import locked
from cnn_jax.sweeping import cost

SMALL = "tests/helpers/small_experiment.py"


@pytest.mark.slow
def test_a_sweep_runs_resumes_and_reports(call, tmp_path):
    def sweep(*arguments, code=0):
        return call("sweep", *arguments, code=code)

    folder = tmp_path / "sweep"
    first = sweep(SMALL + ":full", f"--folder={folder}", "--seeds=1", "--jobs=2")
    assert "Is wide better than narrow?" in first.out and "2 runs" in first.out
    assert "model.width: 0.05 for 0.1" in first.out
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
    assert "2 runs in" in again.out and "1 of them finished" in again.out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (folder / "width=0.05" / "seed-1" / "config.json").exists() and not (
        folder / "width=0.1" / "seed-1"
    ).exists()
    (folder / "report.html").unlink()
    made = sweep(SMALL + ":full", f"--folder={folder}", "--report")
    assert "report.html" in made.out and (folder / "report.html").exists()
    text = (folder / "report.md").read_text()  # a seed that only one arm has is not a pair
    assert "1 seed" in text or "one seed says nothing" in text

    other = sweep(SMALL, f"--folder={folder}", code=2)
    assert "config.eval.layers: True in the folder, False now" in other.err


def test_dry_run_prints_the_commands_and_writes_nothing(call, tmp_path):
    printed = call("sweep", SMALL, "--dry-run", f"--folder={tmp_path / 'x'}").out
    commands = [line for line in printed.splitlines() if line.startswith("cnn_jax train")]
    assert len(commands) == 2 and not (tmp_path / "x").exists()
    assert "--config.model.width=0.05" in commands[1] and commands[1].endswith("--config.seed=SEED")


def test_list_has_every_question_from_any_folder(call, tmp_path):
    assert "residual\n    Do residual connections let depth help?" in call("sweep", "--list", cwd=tmp_path).out


def test_question_is_found_by_name_from_any_folder(call, tmp_path):
    printed = call("sweep", "heads", "--dry-run", "--only=alexnet", cwd=tmp_path).out
    assert "--config=alexnet:digits" in printed and "folder: runs/sweeps/heads" in printed


def test_parts_are_measured_and_printed(call, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda parts: [ROW | {"group": part.group} for part in parts[:1]])
    assert "5x5, 192 to 32" in call("sweep", "bottlenecks", "--cost").out
    found = json.loads(call("sweep", "bottlenecks", "--cost", "--format=json").out)
    assert found["rows"][0]["macs"] == 5 and found["machine"]["versions"]["jax"]


ROW = dict(label="reduced", parameters=3, macs=5, batch=8)
ROW |= dict.fromkeys(("forward_seconds", "both_seconds"), 0.1) | dict.fromkeys(("forward_bytes", "both_bytes"), 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one experiment"),
        (("residual", "--index=x", "--only=y"), "--index goes alone: leave residual, --only, --folder out"),
        (("experiments/residul.py",), "did you mean 'experiments/residual.py'?"),
        ((SMALL, "--only=nothing"), "matches none of the arms: width=0.1; width=0.05"),
        ((SMALL, "--only=("), "is not a regular expression"),
        ((SMALL, "--report"), "run the sweep first"),
        ((SMALL, "--report", "--only=0.1"), "--report takes --seeds and --folder only"),
        ((SMALL, "--submit=timeout_min=5"), "--submit goes with --launcher=slurm"),
        ((SMALL, "--launcher=slurm", "--jobs=2"), "--jobs goes without --launcher"),
        ((SMALL, "--jobs=999"), "--jobs is 999, but this process may use"),
        ((SMALL, "--seeds=0"), "--seeds is 0, but must be above 0"),
        ((SMALL, "--config=configs/mlp.py"), "this command takes no --config"),
        (("residul",), "there is no experiment 'residul'; did you mean 'residual'?"),
        (("residual", "--cost"), "residual names no parts to measure"),
        (("bottlenecks", "--cost", "--seeds=3"), "--cost takes --format only: leave --seeds out"),
        (("residual", "--format=json"), "--format goes with --cost"),
        (("residual", "--cost", "--folder=x"), "leave --folder out"),
        ((SMALL + ":nonsense",), "nonsense"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message, tmp_path):
    words = (
        arguments
        if any(word.startswith(("--folder", "--cost")) for word in arguments)
        else (*arguments, f"--folder={tmp_path / 'x'}")
    )
    assert message in refused("sweep", *words)
    assert not (tmp_path / "x").exists()


def test_two_sweeps_do_not_share_a_folder(call, tmp_path):
    with locked(tmp_path):
        error = call("sweep", SMALL, f"--folder={tmp_path}", code=2).err
    assert "is in use by process" in error and "--folder" in error
