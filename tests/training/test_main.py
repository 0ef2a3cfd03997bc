"""The commands train and evaluate: mistakes, and a run from its start to its evaluation."""

import importlib.metadata
from pathlib import Path

import pytest

import cnn_jax

ROOT = Path(cnn_jax.__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config=RECIPE"),
        (
            ("--config=configs/lenet.py",),
            "there is no file 'configs/lenet.py'; did you mean 'configs/lenet5.py'?",
        ),
        (("--config=configs/lenet5.py:mnits",), "no data set is called 'mnits'; did you mean 'mnist'?"),
        (("--config=lenet5", "--workdir="), "--workdir is empty: name a folder"),
        (("--config=lenet5", "--config.data.workers=1000000"), "workers is 1000000, but must be above 0, at most 4096"),
        (("--config=lenet5", "--config.log.every=1e-320 steps"), "'1e-320 steps', but must be 0 or at least 1e-09"),
        (("--config=lenet5", "--config.duration=4 steps"), "set config.optim.schedule.warmup='0 steps'"),
        (("--confg=configs/lenet5.py",), "no flag --confg; did you mean '--config'?"),
        (("--config=configs/lenet5.py", "--config.optim.momentun=0.5"), "did you mean 'optim.momentum'"),
        (("--config=configs/lenet5.py", "--config.optm.momentum=0.5"), "did you mean 'optim.momentum'"),
        (("--config=configs/lenet5.py", "--config.model.residual=False"), "residual"),
        (("--config=configs/lenet5.py", "--config.batch_size=many"), "'many'"),
        (("--config=configs/lenet5.py", "--config.batch_size=2.5"), "'2.5'"),
        (("--config=configs/lenet5.py", "extra"), "unexpected argument 'extra'"),
        (
            ("--config=configs/lenet5.py", "--workdir=hdfs://host/run"),
            "--workdir is 'hdfs://host/run', but must be",
        ),
        (
            ("--config=configs/lenet5.py", "--workdir=gs://bucket"),
            "--workdir is 'gs://bucket', but must name a folder in a bucket",
        ),
        (
            ("--mode=eval", "--checkpoints=runs/a,s3://bucket/b@best"),
            "--checkpoints is 's3://bucket/b@best', but must be",
        ),
        (
            ("--config=configs/lenet5.py:mnist", "--config.data.dir=gs://bucket/a"),
            "folder of data sets is 'gs://bucket/a'",
        ),
        (
            ("--config=configs/lenet5.py:folder", "--config.data.dir=s3://bucket"),
            "config.data.dir is 's3://bucket', but",
        ),
        (("--mode=evaluate",), "should be one of"),
        (("--mode=eval",), "name a run: cnn_jax evaluate RUN"),
        (("--mode=eval", "--dry-run"), "--dry-run goes with training"),
        (("--config.seed=1",), "give --config=RECIPE"),
        (("--mode=eval", "--checkpoints=no/such/run,runs/b"), "no/such/run holds no run"),
        (("--mode=eval", "--checkpoints=a,b", "--checkpoint=best"), "leave out --config and --checkpoint"),
        (("--config=configs/lenet5.py", "--checkpoints=a,b"), "--checkpoints goes with --mode=eval"),
        (("--config=configs/lenet5.py", "--checkpoint=best"), "--checkpoint goes with --mode=eval"),
        (
            ("--config", "configs/lenet.py"),
            "there is no file 'configs/lenet.py'; did you mean 'configs/lenet5.py'?",
        ),
        (("--config=README.md",), "'README.md' is not a configuration file"),
        (("--config=configs/replay.py",), "name the recorded file"),
        (("--config=configs/replay.py:no/config.json",), "no/config.json holds no run: there is no no/config.json"),
        (("--from=no/such/run",), "--from: no/such/run holds no run"),
        (("--from=README.md",), "README.md is damaged: it is not JSON"),
        (("--from=runs/a", "--config=lenet5"), "--config and --from both name a configuration"),
        (("--config=lenet",), "the recipe is 'lenet', but must be one of"),
        (("--config=lenet5", "--config=mlp"), "--config=mlp: already defined as lenet5"),
        (("--config=configs/lenet5.py", "--config.data.name=mnist"), "as in --config=lenet5:mnist"),
        (("--mode=eval", "--workdir=no/such/run"), "no/such/run holds no run"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message):
    assert message in refused("main", *arguments)


def test_impossible_value_fails_before_data_is_opened(refused):
    told = refused("main", "--config=lenet5:mnist", "--config.precision=flaot32", "--config.data.dir=/nowhere")
    assert told == (
        "error: config.precision is 'flaot32', but must be one of float32, bfloat16; did you mean 'float32'?\n"
    )


def test_missing_data_set_says_how_to_get_it(refused, tmp_path):
    told = refused("main", "--config=lenet5:mnist", f"--config.data.dir={tmp_path}")
    for part in (str(tmp_path), "--config.data.dir", "TFDS_DATA_DIR", "cnn_jax data prepare mnist"):
        assert part in told


def test_recipes_are_listed_with_a_line_each(call):
    lines = call("main", "--list").out.splitlines()
    assert "lenet5           LeNet-5 (LeCun et al. 1998)." in lines
    assert [line.split()[0] for line in lines] == [
        path.stem
        for path in sorted((ROOT / "configs").glob("*.py"))
        if path.stem not in ("__init__", "finetune", "replay")
    ]
    assert all(len(line.split(maxsplit=1)) == 2 and len(line) <= 100 for line in lines)


SMALL = (
    "--config.duration=10steps",
    "--config.optim.schedule.warmup=2steps",
    "--config.model.width=0.25",
    "--config.log.trackers=",
)


def table(printed):
    """Returns the lines of the validation and the test part."""
    return printed.out[printed.out.index("top-1") :].splitlines()[1:3]


def test_run_its_evaluation_and_its_repetition(call, refused, tmp_path):
    first = call("main", "--config=configs/lenet5.py", *SMALL, f"--workdir={tmp_path}/a")
    assert first.err == ""
    assert table(call("main", "--mode=eval", f"--workdir={tmp_path}/a")) == table(first)
    assert table(call("evaluate", f"{tmp_path}/a@10")) == table(first)
    assert table(call("main", f"--from={tmp_path}/a", f"--workdir={tmp_path}/b")) == table(first)
    old = call("main", f"--config=configs/replay.py:{tmp_path}/a/config.json", f"--workdir={tmp_path}/c")
    assert table(old) == table(first)
    flipped = call("main", "--mode=eval", f"--workdir={tmp_path}/a", "--config.eval.protocol=flip")
    assert "whole and flipped" in flipped.out
    assert call("evaluate", f"{tmp_path}/a", "--config.eval.protocol", "flip").out == flipped.out
    both = call("main", "--mode=eval", f"--checkpoints={tmp_path}/a,{tmp_path}/b@10").out
    assert "ensemble" in both and "2 networks, whole" in both
    assert "2 networks, whole" in call("evaluate", f"{tmp_path}/a", f"{tmp_path}/b@10").out
    assert "did you mean" in refused("evaluate", f"{tmp_path}/a", "--config.eval.protocl=flip")
    wrong = refused("main", "--mode=eval", f"--workdir={tmp_path}/a", "--checkpoint=7")
    assert "must be latest, best or one of the steps 10" in wrong
    shown = call("evaluate", f"{tmp_path}/a", "--print_config", "--config.eval.protocol=flip").out.splitlines()
    assert {line.partition("=")[2] for line in shown if line.startswith(("model.width ", "eval.protocol "))} == {
        " 0.25",
        " 'flip'",
    }
    (tmp_path / "a" / "config.json").write_text('{"seed": ')
    assert "is damaged" in refused("evaluate", f"{tmp_path}/a")


def test_the_installed_package_declares_what_it_ships():
    files = {str(file) for file in importlib.metadata.files("cnn-jax") or []}
    assert files, "the package is not installed: pip install -e '.[test]'"


def test_a_dry_run_draws_the_learning_rate(call, refused, tmp_path):
    path = tmp_path / "rate.png"
    schedule = (
        "--config.optim.learning_rate=0.5",
        "--config.duration=40 steps",
        "--config.optim.schedule.warmup=4 steps",
    )
    printed = call("main", "--config=lenet5", "--dry-run", f"--plot={path}", *schedule)
    assert "learning rate: first 0, highest 0.5, last " in printed.out and path.exists()
    assert "--plot goes with --dry-run" in refused("main", "--config=lenet5", f"--plot={path}")
