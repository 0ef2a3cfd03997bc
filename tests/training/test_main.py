import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(*arguments, **options):
    """Runs the command line from the top of the repository, where configs/ is."""
    line = [sys.executable, "-m", "cnn_jax.main", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config=FILE"),
        (("--config=configs/lenet.py",), "no file 'configs/lenet.py'; did you mean 'configs/lenet5.py'?"),
        (("--config=configs/lenet5.py:mnits",), "no data set is called 'mnits'; did you mean 'mnist'?"),
        (("--confg=configs/lenet5.py",), "Did you mean: config"),
        (("--config=configs/lenet5.py", "--config.optim.momentun=0.5"), 'Did you mean "momentum"'),
        (("--config=configs/lenet5.py", "--config.optm.momentum=0.5"), 'Did you mean "optim"'),
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
        (("--mode=eval",), "--mode=eval needs --workdir"),
        (("--mode=eval", "--dry-run"), "--dry-run goes with training"),
        (("--config.seed=1",), "give --config=FILE"),
        (("--mode=eval", "--checkpoints=no/such/run,runs/b"), "no/such/run holds no run"),
        (("--mode=eval", "--checkpoints=a,b", "--checkpoint=best"), "leave out --config and --checkpoint"),
        (("--config=configs/lenet5.py", "--checkpoints=a,b"), "--checkpoints goes with --mode=eval"),
        (("--config=configs/lenet5.py", "--checkpoint=best"), "--checkpoint goes with --mode=eval"),
        (("--config", "configs/lenet.py"), "no file 'configs/lenet.py'; did you mean 'configs/lenet5.py'?"),
        (("--config=README.md",), "'README.md' is no configuration file"),
        (("--config=configs/replay.py",), "name the recorded file"),
        (("--config=configs/replay.py:no/config.json",), "no/config.json cannot be read"),
        (("--config=configs/lenet5.py", "--config.data.name=mnist"), "as in --config=configs/lenet5.py:mnist"),
        (("--mode=eval", "--workdir=no/such/run"), "no/such/run holds no run"),
    ],
)
def test_a_mistake_gets_one_clear_message_and_exit_code_2(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_an_impossible_value_fails_before_anything_is_built():
    result = command("--config=configs/lenet5.py:mnist", "--config.precision=flaot32", "--config.data.dir=/nowhere")
    assert result.returncode == 2
    assert result.stderr == (
        "error: config.precision is 'flaot32', but must be one of float32, bfloat16; did you mean 'float32'?\n"
    )


def test_a_data_set_that_is_not_there_says_how_to_get_it(tmp_path):
    result = command("--config=configs/lenet5.py:mnist", f"--config.data.dir={tmp_path}")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    for part in (str(tmp_path), "--config.data.dir", "TFDS_DATA_DIR", "python -m cnn_jax.prepare_data mnist"):
        assert part in result.stderr


def test_help_is_there_at_once_and_imports_no_jax():
    command("--help")  # writes the bytecode
    started = time.perf_counter()
    result = command("--help")
    seconds = time.perf_counter() - started
    assert result.returncode == 0
    for flag in ("--config", "--mode", "--workdir", "--checkpoint", "dry-run"):
        assert flag in result.stdout
    # Far above what it takes (0.2 s): a shared machine may stall. The import is what would make it slow.
    assert seconds < 20
    script = "import sys, cnn_jax.main; assert not {'jax', 'flax', 'numpy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_help_whose_reader_has_gone_ends_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "experiments.scaling", "--help"]
    result = subprocess.run(line, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_run_its_evaluation_and_its_replay_from_the_command_line(tmp_path):
    small = (
        "--config.duration=10steps",
        "--config.optim.schedule.warmup=2steps",
        "--config.model.width=0.25",
        "--config.log.tensorboard=False",
    )
    first = command("--config=configs/lenet5.py", *small, f"--workdir={tmp_path}/a")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    table = first.stdout[first.stdout.index("top-1") :].splitlines()[1:3]
    evaluated = command("--mode=eval", f"--workdir={tmp_path}/a")
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout[evaluated.stdout.index("top-1") :].splitlines()[1:3] == table
    replayed = command(f"--config=configs/replay.py:{tmp_path}/a/config.json", f"--workdir={tmp_path}/b")
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout[replayed.stdout.index("top-1") :].splitlines()[1:3] == table
    flipped = command("--mode=eval", f"--workdir={tmp_path}/a", "--config.eval.protocol=flip")
    assert flipped.returncode == 0 and "whole and flipped" in flipped.stdout
    spaced = command("--mode=eval", f"--workdir={tmp_path}/a", "--config.eval.protocol", "flip")
    assert spaced.stdout == flipped.stdout
    both = command("--mode=eval", f"--checkpoints={tmp_path}/a,{tmp_path}/b@10")
    assert both.returncode == 0 and "ensemble" in both.stdout and "2 networks, whole" in both.stdout
    mistyped = command("--mode=eval", f"--workdir={tmp_path}/a", "--config.eval.protocl=flip")
    assert mistyped.returncode == 2 and "Did you mean" in mistyped.stderr and "Traceback" not in mistyped.stderr
    wrong = command("--mode=eval", f"--workdir={tmp_path}/a", "--checkpoint=7")
    assert wrong.returncode == 2 and "must be latest, best or one of the steps 10" in wrong.stderr
    (tmp_path / "a" / "config.json").write_text('{"seed": ')
    damaged = command("--mode=eval", f"--workdir={tmp_path}/a")
    assert damaged.returncode == 2 and "is damaged" in damaged.stderr and "Traceback" not in damaged.stderr


def test_the_installed_package_declares_what_it_ships():
    files = {str(file) for file in importlib.metadata.files("cnn-jax") or []}
    assert files, "the package is not installed: pip install -e '.[test]'"
