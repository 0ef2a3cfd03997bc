import copy
import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax import report, train
from cnn_jax.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIG = {
    "seed": 0,
    "duration": "10 epochs",
    "batch_size": 50,
    "ema_decay": 0.0,
    "model": {"name": "resnet34", "shortcut": "B", "width": 1.0},
    "data": {
        "name": "imagenet2012",
        "dir": "",
        "image_size": [224, 224],
        "channels": 3,
        "test": "validation",
        "train_on": "train",
        "test_crop": "center",
        "test_resize": 256,
    },
    "eval": {"recompute_statistics": 0, "confusion_matrix": False},
    "checkpoint": {"keep": 2},
    "log": {"every": "50 steps"},
}
DATA = {"name": "imagenet2012/5.1.0", "examples": {"train": 1000, "test": 50000}}
START = {
    "arguments": ["--config=configs/resnet34.py:imagenet2012"],
    "first_step": 0,
    "last_step": 200,
    "ended": "done",
    "seconds": {"total": 100.0, "training": 60.0, "evaluation": 5.0, "saving": 1.0, "compilation": 20.0},
    "processor": "A",
    "cores": 2,
    "devices": "1 x cpu (cpu)",
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "commit": "0123456789abcdef-dirty",
}


def put(tree, name, value):
    *path, last = name.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def make(folder, *, error=0.25, top5=0.08, changes=(), data=(), starts=(START,), changed=(), step=200, kind="test"):
    """Writes the folder of a run of 10 epochs of 1000 examples in batches of 50: 200 steps."""
    config, identity = copy.deepcopy(CONFIG), copy.deepcopy(DATA)
    for tree, items in ((config, dict(changes)), (identity, dict(data))):
        for name, value in items.items():
            put(tree, name, value)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps(identity))
    test = {"kind": kind, "step": step, "epoch": step / 20, "error": error, "top5_error": top5, "examples": 50000}
    records = [{"kind": "train", "step": step, "epoch": step / 20, "loss": 1.0}, test]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if starts:
        run = {"parameters": 21797672, "macs": 1, "changed": dict(changed), "starts": list(starts)}
        (folder / "run.json").write_text(json.dumps(run))
    return folder


def seeds(tmp_path, *errors, **options):
    """Makes runs of the seeds 0, 1, ... and returns their folders."""
    arguments = START["arguments"]
    found = []
    for seed, error in enumerate(errors):
        start = START | {"arguments": [*arguments, f"--config.seed={seed}"] if seed else arguments}
        folder = tmp_path / f"{len(list(tmp_path.glob('*')))}"
        given = options | {"changes": dict(options.get("changes", ())) | {"seed": seed}}
        found.append(make(folder, error=error, **({"starts": (start,)} | given)))
    return found


def grouped(folders):
    groups, left_out = report.group(report.read(folder) for folder in folders)
    return groups, left_out


def command(*arguments, cwd=ROOT):
    line = [sys.executable, "-m", "cnn_jax.report", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


# ---------------------------------------------------------------- groups


def test_seeds_of_one_configuration_make_a_line_with_their_median_mean_and_deviation(tmp_path):
    (group,), left_out = grouped(reversed(seeds(tmp_path, 0.10, 0.03, 0.08)))
    row = report.group_row(group)
    assert not left_out and row["seeds"] == [0, 1, 2]
    assert row["test accuracy, %"] == pytest.approx([90, 97, 92])
    assert (row["median"], row["mean"]) == (pytest.approx(92), pytest.approx(93))
    assert row["standard deviation"] == pytest.approx(((9 + 16 + 1) / 2) ** 0.5)  # of a sample: n - 1
    expected = {"network": "resnet34", "data set": "imagenet2012/5.1.0", "image": "224x224x3", "settings": ""}
    expected |= {"parameters": 21797672, "steps": 200, "epochs": 10, "time, s": ["100", "100", "100"]}
    assert {name: row[name] for name in expected} == expected
    assert row["hardware"] == "A, 2 cores, 1 x cpu (cpu)" and row["versions"] == "jax 0.10.2, flax 0.12.8"
    assert row["commit"] == "0123456789-dirty"
    assert row["command"] == "python -m cnn_jax.main --config=configs/resnet34.py:imagenet2012 --config.seed=SEED"


@pytest.mark.parametrize(
    "differs",
    [
        {"changes": {"model.width": 0.5}},
        {"changes": {"data.image_size": [128, 128]}},
        {"changes": {"data.test_crop": "resize"}},
        {"changes": {"data.test_resize": 232}},
        {"changes": {"ema_decay": 0.999}},
        {"changes": {"eval.recompute_statistics": 100}},
        {"changes": {"data.train_on": "train+validation"}},
        {"data": {"name": "imagenet2012/5.0.0"}},
        {"data": {"examples.test": 49000}},
    ],
    ids=str,
)
def test_what_differs_in_more_than_the_seed_is_not_pooled_and_shows_the_difference(tmp_path, differs):
    one, other = make(tmp_path / "a"), make(tmp_path / "b", **differs)
    groups, _ = grouped([one, other])
    assert len(groups) == 2
    rows = [report.group_row(group) for group in groups]
    assert [len(row["seeds"]) for row in rows] == [1, 1] and rows[0]["standard deviation"] is None
    assert rows[0]["settings"] != rows[1]["settings"]
    ((name, value),) = next(iter(differs.values())).items()
    name = f"data.json: {name}" if "data" in differs else name.removeprefix("model.")
    assert f"{name}={value}" in rows[1]["settings"]


@pytest.mark.parametrize(
    "changes", [{"log.every": "1 steps"}, {"checkpoint.keep": 9}, {"data.dir": "x"}, {"eval.confusion_matrix": True}]
)
def test_what_is_only_printed_or_kept_does_not_part_runs(tmp_path, changes):
    groups, _ = grouped([make(tmp_path / "a"), make(tmp_path / "b", changes={"seed": 1} | changes)])
    assert [len(group.runs) for group in groups] == [2]


def test_a_seed_counts_once(tmp_path):
    folders = [make(tmp_path / name, error=error) for name, error in (("a", 0.25), ("b", 0.25), ("c", 0.3))]
    (group,), left_out = grouped(folders)
    assert group.runs[0].folder == folders[0] and len(group.runs) == 1
    assert left_out == {
        folders[1]: f"seed 0 again: 75.00%, and the same in {folders[0]}",
        folders[2]: f"seed 0 again: 70.00%, and 75.00 in {folders[0]}",
    }


def test_the_settings_name_what_is_unusual_of_a_network_that_stands_alone(tmp_path):
    folders = [
        make(
            tmp_path / "a",
            changes={"model.width": 0.25, "model.shortcut": "A"},
            changed={"shortcut": "A", "width": 0.25},
        ),
        make(tmp_path / "b", changes={"model.name": "vgg16", "model.width": 0.5}, starts=()),
    ]
    groups, _ = grouped(folders)
    assert [group.settings for group in groups] == ["shortcut=A, width=0.25", "width=0.5"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "50,000 images (validation), shorter side to 256, centre crop of 224x224, last step"),
        (
            {"data.test_crop": "resize", "data.image_size": [28, 32], "data.test": "20%", "ema_decay": 0.9},
            "50,000 images (20%), whole, at 28x32, moving average of the parameters, last step",
        ),
        (
            {"eval.recompute_statistics": 10, "data.train_on": "train+validation"},
            "50,000 images (validation), shorter side to 256, centre crop of 224x224, trained on the validation part, "
            "too, BatchNorm statistics of 10 batches, last step",
        ),
    ],
)
def test_the_evaluation_is_told(tmp_path, changes, text):
    assert report.read(make(tmp_path / "a", changes=changes)).evaluation == text


def test_the_time_of_a_run_is_that_of_all_its_starts(tmp_path):
    def start(first, last, ended, total, **other):
        seconds = {"total": total, "training": total / 2}
        return START | {"first_step": first, "last_step": last, "ended": ended, "seconds": seconds} | other

    stopped, rest = start(0, 80, "Stopped", 30.0), start(80, 200, "done", 50.0, processor="B")
    idle = start(200, 200, "done", 7.0, arguments=["--config=other.py"])
    run = report.read(make(tmp_path / "a", starts=(stopped, rest, idle)))
    (group,), _ = grouped([run.folder])
    row = report.run_row(run, group)
    assert (row["time, s"], row["training, s"], row["starts"], row["killed starts"]) == (80, 40, 2, 0)
    assert row["hardware"] == "A, 2 cores, 1 x cpu (cpu); B, 2 cores, 1 x cpu (cpu)"
    assert row["command"] == "python -m cnn_jax.main --config=configs/resnet34.py:imagenet2012"
    assert report.time_text(run) == "80"
    killed = report.read(make(tmp_path / "b", starts=(start(0, 80, None, 30.0), rest)))
    assert report.time_text(killed) == ">80"
    assert report.time_text(report.read(make(tmp_path / "c", starts=()))) == "?"


def test_commands_are_as_they_were_typed_and_differing_ones_are_all_there(tmp_path):
    words = ["--config=configs/a.py", "--config.data.augment=('flip',)", "--config.duration=5 epochs"]
    forms = (words, [*words, "--config.seed", "1"], ["--config=configs/b.py", "--config.seed=2"])
    runs = [
        report.read(make(tmp_path / f"{i}", changes={"seed": i}, starts=(START | {"arguments": arguments},)))
        for i, arguments in enumerate(forms)
    ]
    main = ["python", "-m", "cnn_jax.main"]
    assert shlex.split(report.commands(runs[1:2])[0]) == [*main, *words, "--config.seed", "1"]
    row = report.group_row(report.Group(runs, ""))
    first, other = row["command"].split("; ")
    assert shlex.split(first) == [*main, *words, "--config.seed=SEED"]
    assert shlex.split(other) == [*main, "--config=configs/b.py", "--config.seed=SEED"]
    python = report.read(make(tmp_path / "python", starts=(START | {"arguments": None},)))
    assert report.commands([python]) == []


# ---------------------------------------------------------------- what does not count


def cut(name, text):
    return lambda folder: (folder / name).write_text(text)


def without(name, field):
    def change(folder):
        tree = json.loads((folder / name).read_text())
        del tree[field]
        (folder / name).write_text(json.dumps(tree))

    return change


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "metrics.jsonl").unlink(), "there is no metrics.jsonl"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (cut("metrics.jsonl", ""), "unfinished: step 0 of 200, there is no final test"),
        (cut("metrics.jsonl", '{"kind": "train", "step": 120}\n'), "unfinished: step 120 of 200"),
        (cut("metrics.jsonl", '{"kind": "train", "step": 120}\n{"ki'), "unfinished: step 120 of 200"),
        (cut("metrics.jsonl", '{"ki\n{"kind": "train", "step": 120}\n'), "line 1 is not JSON"),
        (cut("metrics.jsonl", '{"kind": "test", "step": 200, "error": "nan"}\n'), "damaged: error in the test"),
        (cut("metrics.jsonl", '{"kind": "test", "step": 100}\n'), "unfinished: step 100 of 200"),  # then extended
        (cut("config.json", '{"seed": '), "damaged: config.json"),
        (cut("data.json", "[]"), "damaged: data.json"),
        (cut("run.json", "{}"), "damaged: run.json"),
        (without("config.json", "seed"), "damaged: config.json has no seed"),
        (without("data.json", "examples"), "damaged: data.json has no examples.train"),
        (lambda folder: put_file(folder, "config.json", "duration", "10 apples"), "damaged: "),
        (lambda folder: put_file(folder, "config.json", "batch_size", 0), "damaged: "),
        (lambda folder: put_file(folder, "config.json", "seed", "one"), "damaged: seed in config.json"),
    ],
)
def test_an_unfinished_or_damaged_run_says_what_is_missing(tmp_path, damage, why):
    damage(make(tmp_path / "a"))
    with pytest.raises(report.LeftOut) as raised:
        report.read(tmp_path / "a")
    assert why in str(raised.value)


def put_file(folder, name, field, value):
    tree = json.loads((folder / name).read_text())
    put(tree, field, value)
    (folder / name).write_text(json.dumps(tree))


def test_a_run_that_was_not_finite_says_so(tmp_path):
    folder = make(tmp_path / "a", step=120, kind="train")
    (folder / "not_finite").mkdir()
    with pytest.raises(report.LeftOut, match="step 120 of 200, its loss was not finite"):
        report.read(folder)


def test_a_folder_that_is_no_run_is_a_mistake(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is no folder of a run"):
            report.read(folder)


# ---------------------------------------------------------------- scorecard


def lines(rows, **chosen):
    return [row for row in rows if all(row[name.replace("_", " ")] == value for name, value in chosen.items())]


def test_the_scorecard_sets_the_same_network_data_and_view_side_by_side(tmp_path):
    # The medians of the errors, each by itself.
    groups, _ = grouped(seeds(tmp_path, 0.27, 0.26, 0.31))
    rows = report.scorecard(groups)
    (row,) = lines(rows, network="resnet34", fields="", view="1 crop")
    assert row["ours: top-1 error, %"] == pytest.approx(27) and row["ours: top-5 error, %"] == pytest.approx(8)
    assert row["ours: seeds"] == 3 and "centre crop of 224x224" in row["ours: evaluation"]
    assert (row["torchvision: top-1 error, %"], row["torchvision: top-5 error, %"]) == (26.686, 8.58)
    assert row["torchvision: evaluation"] == "shorter side to 256, centre crop of 224"
    paper = [name for name in row if name.startswith("paper: ")]
    assert len(paper) == 4 and all(row[name] is None for name in paper)  # the paper has ten crops: another line
    (ten,) = lines(rows, network="resnet34", fields="", view="10 crops")
    assert (ten["paper: top-1 error, %"], ten["paper: top-5 error, %"]) == (24.52, 7.46)
    assert ten["paper: source"] == "He et al. 2016, Table 3" and ten["ours: seeds"] is None
    assert sum(row["ours: seeds"] is not None for row in rows) == 1
    assert all(list(other) == list(row) for other in rows)


def test_ours_stand_beside_a_number_only_if_they_are_of_that_network_data_and_view(tmp_path):
    folders = [
        make(tmp_path / "plain", changes={"model.residual": False}, changed={"residual": False, "zero_gamma": True}),
        make(tmp_path / "narrow", changes={"model.width": 0.5}, changed={"width": 0.5}),
        make(tmp_path / "whole", changes={"data.test_crop": "resize"}),
        make(tmp_path / "other data", changes={"data.name": "digits"}),
        make(tmp_path / "old", changes={"seed": 7, "batch_size": 100}, starts=(), step=100),
    ]
    groups, _ = grouped(folders)
    rows = report.scorecard(groups)
    mine = {row["fields"]: row for row in rows if row["ours: seeds"] and row["data set"] == "imagenet2012"}
    alone = [name for name in rows[0] if name.startswith(("paper: ", "torchvision: "))]
    assert set(mine) == {"residual=False", "width=0.5", "", "not recorded"}
    assert mine[""]["view"] == "whole image"
    assert all(row[name] is None for row in mine.values() for name in alone)
    (digits,) = lines(rows, data_set="digits")
    assert digits["ours: seeds"] == 1 and all(digits[name] is None for name in alone)
    (plain,) = lines(rows, network="resnet34", fields="residual=False", view="10 crops")
    assert plain["paper: top-1 error, %"] == 28.54


def test_two_groups_of_one_network_are_two_lines_beside_one_published_number(tmp_path):
    folders = [make(tmp_path / name, changes={"ema_decay": decay}) for name, decay in (("a", 0.0), ("b", 0.9))]
    groups, _ = grouped(folders)
    first, second = lines(report.scorecard(groups), network="resnet34", fields="", view="1 crop")
    assert [row["ours: settings"] for row in (first, second)] == ["ema_decay=0.0", "ema_decay=0.9"]
    assert first["torchvision: top-1 error, %"] == 26.686 and second["torchvision: top-1 error, %"] is None


# ---------------------------------------------------------------- the command


def test_the_command_prints_tables_and_names_what_it_leaves_out(tmp_path):
    folders = seeds(tmp_path, 0.10, 0.03)
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        record["starts"][0]["seconds"]["total"] = 123456.4
        (folder / "run.json").write_text(json.dumps(record))
    unfinished, old = make(tmp_path / "u", step=120, kind="train"), make(tmp_path / "o", starts=(), changes={"seed": 5})
    everything = (*folders, unfinished, old)
    text = command(*everything)
    assert text.returncode == 0
    assert text.stderr == (
        f"{unfinished}: left out, unfinished: step 120 of 200, there is no final test\n"
        f"{old}: no run.json, so its time, machine and command are not known\n"
    )
    for word in ("90.00, 97.00, 75.00", "0, 1, 5", "123456, 123456, ?", "centre crop of 224x224", "--config.seed=SEED"):
        assert word in text.stdout, word
    markdown = command("--format=markdown", *folders).stdout
    rows = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| resnet34")]
    assert len(rows) == 2 and "90.00, 97.00" in rows[0] and "123456, 123456" in rows[1]
    (line,) = csv.DictReader(io.StringIO(command(*folders, "--format=csv").stdout))
    assert (line["test accuracy, %"], line["median"], line["seeds"]) == ("90.00, 97.00", "93.5", "0, 1")
    by_run = list(csv.DictReader(io.StringIO(command(*folders, "--nogroup", "--format=csv").stdout)))
    assert [(row["folder"], row["seed"], row["time, s"]) for row in by_run] == [
        (str(folders[0]), "0", "123456"),
        (str(folders[1]), "1", "123456"),
    ]
    found = json.loads(command(*everything, "--format=json").stdout)
    assert found["groups"][0]["mean"] == pytest.approx((90 + 97 + 75) / 3) and len(found["runs"]) == 3
    assert list(found["left out"]) == [str(unfinished)]
    card = command("--scorecard", "--format=csv", *folders).stdout
    mine = [row for row in csv.DictReader(io.StringIO(card)) if row["ours: seeds"]]
    assert [(row["network"], row["ours: top-1 error, %"], row["paper: source"]) for row in mine] == [
        ("resnet34", "6.5", "")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the folders of runs"),
        (("nowhere",), "nowhere is no folder of a run"),
        (("run", "--config=configs/lenet5.py"), "--config goes with training"),
        (("run", "--scorecard", "--nogroup"), "leave --nogroup out"),
        (("run", "--format=html"), "should be one of"),
        (("unfinished",), "no finished run is left:\nunfinished: left out, unfinished: step 120 of 200"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path, arguments, message):
    make(tmp_path / "run")
    make(tmp_path / "unfinished", step=120, kind="train")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    result = command(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "") and message in result.stderr
    assert "Traceback" not in result.stderr


def test_reports_import_no_jax():
    script = "import sys, cnn_jax.report, cnn_jax.commandline; assert not {'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_a_real_run_is_reported_with_the_numbers_that_it_printed(tmp_path, small_config, console):
    finals = []
    for seed in (0, 1):
        small_config.seed = seed
        arguments = ["--config=configs/lenet5.py", f"--config.seed={seed}"]
        finals.append(train.run(small_config, tmp_path / f"{seed}", console=console, arguments=arguments))
    (group,), left_out = grouped([tmp_path / "0", tmp_path / "1"])
    row = report.group_row(group)
    assert not left_out and (row["network"], row["settings"], row["parameters"]) == ("lenet5", "width=0.25", 4157)
    accuracies = [100 * (1 - final["test"]["error"]) for final in finals]
    assert row["test accuracy, %"] == accuracies and row["median"] == pytest.approx(sum(accuracies) / 2)
    assert row["image"] == "28x28x1" and row["steps"] == 20 and row["epochs"] == pytest.approx(20 * 64 / 1258, abs=1e-6)
    assert row["evaluation"] == "359 images (20%), whole, at 28x28, last step"
    assert row["command"] == "python -m cnn_jax.main --config=configs/lenet5.py --config.seed=SEED"
    assert all(float(seconds) >= 0 for seconds in row["time, s"])
