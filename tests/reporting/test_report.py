import csv
import io
import json

import pytest

from cnn_jax.reporting import run_tables
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options
from run_folders import grouped, make, seeds


def test_the_command_prints_tables_and_names_what_it_leaves_out(call, tmp_path):
    def command(*arguments):
        return call("report", *arguments)

    folders = seeds(tmp_path, 0.10, 0.03)
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        record["starts"][0]["seconds"]["total"] = 123456.4
        (folder / "run.json").write_text(json.dumps(record))
    unfinished, old = make(tmp_path / "u", step=120, kind="train"), make(tmp_path / "o", starts=(), changes={"seed": 5})
    everything = (*folders, unfinished, old)
    text = command(*everything)
    assert text.err == (
        f"{unfinished}: left out, unfinished: step 120 of 200, there is no final test\n"
        f"{old}: no run.json, so its time, machine and command are not known\n"
    )
    for word in ("90.00, 97.00, 75.00", "0, 1, 5", "123456, 123456, ?", "center crop of 224x224", "--config.seed=SEED"):
        assert word in text.out, word
    markdown = command("--format=markdown", *folders).out
    (row,) = (line.split(" | ") for line in markdown.splitlines() if line.startswith("| resnet34"))
    assert "90.00, 97.00" in row and "123456, 123456" in row and "A, 2 cores, 1 x cpu (cpu)" in row
    other = make(tmp_path / "n", changes={"model.width": 0.5}, changed={"width": 0.5})
    table, same = command("--format=markdown", *folders, other).out.split("\n\n")[1:]
    assert "| width=0.5 |" in table and "A, 2 cores" not in table
    assert "; hardware: A, 2 cores, 1 x cpu (cpu); " in same and "center crop of 224x224" in same
    chosen = command("--format=markdown", "--columns=network,test,time", *folders).out
    assert chosen.splitlines()[2:] == [
        "| network | test accuracy, % | time, s |",
        "| --- | --- | --- |",
        "| resnet34 | 90.00, 97.00 | 123456, 123456 |",
    ]
    (line,) = csv.DictReader(io.StringIO(command(*folders, "--format=csv").out))
    assert (line["test accuracy, %"], line["median"], line["seeds"]) == ("90.00, 97.00", "93.5", "0, 1")
    by_run = list(csv.DictReader(io.StringIO(command(*folders, "--nogroup", "--format=csv").out)))
    assert [(row["folder"], row["seed"], row["time, s"]) for row in by_run] == [
        (str(folders[0]), "0", "123456"),
        (str(folders[1]), "1", "123456"),
    ]
    found = json.loads(command(*everything, "--format=json").out)
    assert found["groups"][0]["mean"] == pytest.approx((90 + 97 + 75) / 3) and len(found["runs"]) == 3
    assert list(found["left out"]) == [str(unfinished)]
    card = command("--scorecard", "--format=csv", *folders).out
    mine = [row for row in csv.DictReader(io.StringIO(card)) if row["ours: seeds"]]
    assert [(row["network"], row["ours: top-1 error, %"], row["paper: source"]) for row in mine] == [
        ("resnet34", "6.5", "")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the folders of runs"),
        (("nowhere",), "nowhere is not a folder of a run"),
        (("run", "--config=configs/lenet5.py"), "this command takes no --config: it goes with training"),
        (("run", "--scorecard", "--nogroup"), "leave --nogroup out"),
        (("run", "--format=html"), "should be one of"),
        (("run", "--columns=color"), "no column begins with 'color': network; settings"),
        (("unfinished",), "no finished run is left:\nunfinished: left out, unfinished: step 120 of 200"),
    ],
)
def test_mistake_gets_one_message(refused, tmp_path, arguments, message):
    make(tmp_path / "run")
    make(tmp_path / "unfinished", step=120, kind="train")
    assert message in refused("report", *arguments, cwd=tmp_path)


@pytest.mark.slow
def test_a_real_run_is_reported_with_the_numbers_that_it_printed(tmp_path, small_config, console):
    finals = []
    for seed in (0, 1):
        small_config.seed = seed
        arguments = ["--config=configs/lenet5.py", f"--config.seed={seed}"]
        finals.append(train.run(small_config, tmp_path / f"{seed}", Options(console=console, arguments=arguments)))
    (group,), left_out = grouped([tmp_path / "0", tmp_path / "1"])
    row = run_tables.group_row(group)
    assert not left_out and (row["network"], row["settings"], row["parameters"]) == ("lenet5", "width=0.25", 4157)
    accuracies = [100 * (1 - final["test"]["error"]) for final in finals]
    assert row["test accuracy, %"] == accuracies and row["median"] == pytest.approx(sum(accuracies) / 2)
    assert row["image"] == "28x28x1" and row["steps"] == 20 and row["epochs"] == pytest.approx(20 * 64 / 1258, abs=1e-6)
    assert row["evaluation"] == "359 examples (20%), whole, last step"
    assert row["command"] == "cnn_jax train --config=configs/lenet5.py --config.seed=SEED"
    assert all(float(seconds) >= 0 for seconds in row["time, s"])


def test_a_stray_folder_among_runs_is_left_out(call, tmp_path):
    make(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    out, err = call("report", "run", "notes", cwd=tmp_path)
    assert "resnet34" in out and "notes: left out, is not a folder of a run" in err
