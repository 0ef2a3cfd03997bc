import json
import shlex

import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.reporting import run_tables, runs
from run_folders import START, grouped, make, put, seeds


def test_seeds_of_one_configuration_share_a_line_of_statistics(tmp_path):
    (group,), left_out = grouped(reversed(seeds(tmp_path, 0.10, 0.03, 0.08)))
    row = run_tables.group_row(group)
    assert not left_out and row["seeds"] == [0, 1, 2]
    assert row["test accuracy, %"] == pytest.approx([90, 97, 92])
    assert (row["median"], row["mean"]) == (pytest.approx(92), pytest.approx(93))
    assert row["standard deviation"] == pytest.approx(((9 + 16 + 1) / 2) ** 0.5)  # of a sample: n - 1
    expected = {"network": "resnet34", "data set": "imagenet2012/5.1.0", "image": "224x224x3", "settings": ""}
    expected |= {"parameters": 21797672, "steps": 200, "epochs": 10, "time, s": ["100", "100", "100"]}
    assert {name: row[name] for name in expected} == expected
    assert row["hardware"] == "A, 2 cores, 1 x cpu (cpu)" and row["versions"] == "jax 0.10.2, flax 0.12.8"
    assert row["commit"] == "0123456789-dirty"
    assert row["command"] == "cnn_jax train --config=configs/resnet34.py:imagenet2012 --config.seed=SEED"


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
def test_runs_that_differ_beyond_the_seed_are_not_pooled(tmp_path, differs):
    one, other = make(tmp_path / "a"), make(tmp_path / "b", **differs)
    groups, _ = grouped([one, other])
    assert len(groups) == 2
    rows = [run_tables.group_row(group) for group in groups]
    assert [len(row["seeds"]) for row in rows] == [1, 1] and rows[0]["standard deviation"] is None
    assert rows[0]["settings"] != rows[1]["settings"]
    ((name, value),) = next(iter(differs.values())).items()
    name = f"data.json: {name}" if "data" in differs else name.removeprefix("model.")
    assert f"{name}={value}" in rows[1]["settings"]


@pytest.mark.parametrize(
    "changes", [{"log.every": "1 steps"}, {"checkpoint.keep": 9}, {"data.dir": "x"}, {"eval.confusion_matrix": True}]
)
def test_fields_that_only_affect_output_do_not_separate_runs(tmp_path, changes):
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


def test_settings_of_a_single_group_name_the_non_default_fields(tmp_path):
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
        ({}, "50,000 examples (validation), shorter side to 256, center crop of 224x224, last step"),
        (
            {"data.test_crop": "resize", "data.image_size": [28, 32], "data.test": "20%", "ema_decay": 0.9},
            "50,000 examples (20%), whole, moving average of the parameters, last step",
        ),
        (
            {"data.test_crop": "resize", "data.image_size": [128]},  # a sequence
            "50,000 examples (validation), whole, last step",
        ),
        (
            {"data.test_crop": "resize", "data.image_size": [16, 32, 32]},  # a clip
            "50,000 examples (validation), whole, last step",
        ),
        (
            {"eval.recompute_statistics": 10, "data.train_on": "train+validation"},
            "50,000 examples (validation), shorter side to 256, center crop of 224x224, "
            "trained on the validation part, too, BatchNorm statistics of 10 batches, last step",
        ),
    ],
)
def test_the_evaluation_is_described(tmp_path, changes, text):
    assert runs.read(make(tmp_path / "a", changes=changes)).evaluation == text


def test_the_time_of_a_run_is_that_of_all_its_starts(tmp_path):
    def start(first, last, ended, total, **other):
        seconds = {"total": total, "training": total / 2}
        return START | {"first_step": first, "last_step": last, "ended": ended, "seconds": seconds} | other

    stopped, rest = start(0, 80, "Stopped", 30.0), start(80, 200, "done", 50.0, processor="B")
    idle = start(200, 200, "done", 7.0, arguments=["--config=other.py"])
    run = runs.read(make(tmp_path / "a", starts=(stopped, rest, idle)))
    (group,), _ = grouped([run.folder])
    row = run_tables.run_row(run, group)
    assert (row["time, s"], row["training, s"], row["starts"], row["killed starts"]) == (80, 40, 2, 0)
    assert row["hardware"] == "A, 2 cores, 1 x cpu (cpu); B, 2 cores, 1 x cpu (cpu)"
    assert row["command"] == "cnn_jax train --config=configs/resnet34.py:imagenet2012"
    assert run.time == "80"
    killed = runs.read(make(tmp_path / "b", starts=(start(0, 80, None, 30.0), rest)))
    assert killed.time == ">80"
    assert runs.read(make(tmp_path / "c", starts=())).time == "?"


def test_commands_are_as_typed_and_all_different_ones_are_listed(tmp_path):
    words = ["--config=configs/a.py", "--config.data.augment=('flip',)", "--config.duration=5 epochs"]
    forms = (words, [*words, "--config.seed", "1"], ["--config=configs/b.py", "--config.seed=2"])
    found = [
        runs.read(make(tmp_path / f"{i}", changes={"seed": i}, starts=(START | {"arguments": arguments},)))
        for i, arguments in enumerate(forms)
    ]
    main = ["cnn_jax", "train"]
    assert shlex.split(runs.commands(found[1:2])[0]) == [*main, *words, "--config.seed", "1"]
    row = run_tables.group_row(runs.Group(found, ""))
    first, other = row["command"].split("; ")
    assert shlex.split(first) == [*main, *words, "--config.seed=SEED"]
    assert shlex.split(other) == [*main, "--config=configs/b.py", "--config.seed=SEED"]
    python = runs.read(make(tmp_path / "python", starts=(START | {"arguments": None},)))
    assert runs.commands([python]) == []


def test_a_fine_tuned_run_is_repeated_by_finetune(tmp_path):
    words = ["--checkpoint=bundled:lenet5-mnist", "--regime=head"]
    found = runs.read(make(tmp_path / "a", starts=(START | {"arguments": words},)))
    assert runs.commands([found]) == ["cnn_jax finetune --checkpoint=bundled:lenet5-mnist --regime=head"]


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
        (cut("metrics.jsonl", '{"ki\n{"kind": "train", "step": 120}\n'), "line 1 is not a record"),
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
    with pytest.raises(runs.LeftOut) as raised:
        runs.read(tmp_path / "a")
    assert why in str(raised.value)


def put_file(folder, name, field, value):
    tree = json.loads((folder / name).read_text())
    put(tree, field, value)
    (folder / name).write_text(json.dumps(tree))


def test_a_run_with_a_nonfinite_loss_says_so(tmp_path):
    folder = make(tmp_path / "a", step=120, kind="train")
    (folder / "not_finite").mkdir()
    with pytest.raises(runs.LeftOut, match="step 120 of 200, its loss was not finite"):
        runs.read(folder)


def test_a_folder_that_is_not_a_run_is_a_mistake(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is not a folder of a run"):
            runs.read(folder)
