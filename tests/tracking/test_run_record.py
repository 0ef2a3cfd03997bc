import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.nn import cpu
from cnn_jax.tracking import run_record
from cnn_jax.training import loop as train
from cnn_jax.training import session
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--config=a.py", "--workdir=x", "--config.seed=1"], ["--config=a.py", "--config.seed=1"]),
        (["--workdir", "x", "--config", "a.py"], ["--config", "a.py"]),
        (["-workdir=x", "--extend", "--config=workdir"], ["--config=workdir"]),
        (["--extend=true", "--config=a.py", "--workdirs=x"], ["--config=a.py", "--workdirs=x"]),
    ],
)
def test_flags_leave_a_command_with_their_values(arguments, kept):
    assert run_record.without(arguments, "workdir", "extend!") == kept


def begin(folder, config, **options):
    given = dict(first_step=0, began=time.perf_counter(), arguments=None) | options
    return run_record.RunRecord(folder, config, build(config).layers, **given)


def test_a_start_says_what_ran_on_what_and_for_how_long(tmp_path, small_config):
    began = time.perf_counter() - 100
    with begin(tmp_path, small_config, began=began, arguments=["--config=x.py"]) as record:
        assert run_record.read(tmp_path / "run.json")["starts"][0]["ended"] is None  # a killed start leaves this
        since = time.perf_counter()
        with record.spending("training"):
            time.sleep(0.2)
            with record.spending("evaluation"):
                time.sleep(0.1)
            jax.jit(lambda x: x * 3.25 + 1)(jnp.ones(3)).block_until_ready()
        spent = time.perf_counter() - since
        record.write(5)
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["changed"] == {"width": 0.25}
    assert content["parameters"] == 4157  # 6/4 = 2, 4, 30, 21 units: 52 + 204 + (100+1)30 + (30+1)21 + (21+1)10
    (start,) = content["starts"]
    seconds = start["seconds"]
    assert 100 < seconds["total"] < 160
    assert seconds["evaluation"] >= 0.1 and seconds["training"] >= 0.2
    # Of each, what the other has is left out; the seconds are rounded.
    assert 0.3 <= seconds["evaluation"] + seconds["training"] <= spent + 0.01
    assert 0 < seconds["compilation"] < seconds["training"] and seconds["saving"] == 0
    assert (start["arguments"], start["last_step"], start["ended"]) == (["--config=x.py"], 5, "done")
    assert start["devices"] == f"{jax.device_count()} x cpu (cpu)" and 1 <= start["cores"] <= os.cpu_count()
    assert start["versions"]["jax"] == jax.__version__ and start["versions"]["python"] == platform.python_version()


def test_starts_add_up_and_a_new_run_drops_earlier_ones(tmp_path, small_config):
    def ended(first_step, last_step, error=None):
        try:
            with begin(tmp_path, small_config, first_step=first_step) as record:
                record.write(last_step)
                if error:
                    raise error
        except KeyboardInterrupt:
            pass
        return [start["ended"] for start in run_record.read(tmp_path / "run.json")["starts"]]

    assert ended(0, 3) == ["done"]
    assert ended(0, 10, KeyboardInterrupt()) == ["KeyboardInterrupt"]
    assert ended(10, 20) == ["KeyboardInterrupt", "done"]
    assert ended(20, 20) == ["KeyboardInterrupt", "done", "done"]
    assert ended(20, 30) == ["KeyboardInterrupt", "done", "done", "done"]
    starts = run_record.read(tmp_path / "run.json")["starts"]
    assert [start["last_step"] for start in run_record.counted(starts)] == [10, 20, 30]  # one found all 20 steps done


def test_a_start_names_its_kernels_and_those_of_the_start_before(tmp_path, small_config):
    found = cpu.target() or "xla"
    for kernels, name in ((True, found), (False, "xla"), (False, "xla")):
        small_config.cpu_kernels = kernels
        with begin(tmp_path, small_config, first_step=3) as record:
            assert record.start["kernels"] == name
            differs = len(record.content["starts"]) == 2 and found != "xla"
            assert record.other_kernels() == (found if differs else None)


@pytest.mark.slow
def test_a_run_that_resumes_with_other_kernels_says_so(tmp_path, small_config, console):
    small_config.duration = "10 steps"
    train.run(small_config, tmp_path, Options(console=console))
    small_config.cpu_kernels = False
    train.run(small_config, tmp_path, Options(console=console))
    said = "results may differ in their last bits" in console.file.getvalue()
    assert said is (cpu.target() is not None)


def test_an_unwritable_record_does_not_hide_the_runs_error(tmp_path, small_config, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with pytest.raises(RuntimeError, match="what went wrong"), begin(tmp_path, small_config):
        monkeypatch.setattr(run_record, "write_text", full)
        raise RuntimeError("what went wrong")


@pytest.mark.parametrize("text", ["{", "[]", '{"starts": [{}]}', '{"starts": 3}', "{}"])
def test_a_damaged_record_is_an_error_that_says_so(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged: remove it"):
        run_record.read(tmp_path / "run.json")


@pytest.mark.slow
def test_a_resumed_run_has_the_time_of_all_its_starts(tmp_path, small_config, console, monkeypatch):
    def stopping(batches):
        for i, batch in enumerate(batches, start=1):
            yield batch
            if i == 13:  # the checkpoint is of step 10
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "ahead", stopping)
        train.run(small_config, tmp_path, Options(console=console))
    for _ in range(2):  # resumes, and finds everything done
        train.run(small_config, tmp_path, Options(console=console))
    starts = run_record.read(tmp_path / "run.json")["starts"]
    assert [(start["first_step"], start["last_step"], start["ended"]) for start in starts] == [
        (0, 10, "KeyboardInterrupt"),
        (10, 20, "done"),
        (20, 20, "done"),
    ]
    assert run_record.counted(starts) == starts[:2]
    for start in starts[:2]:
        parts = [start["seconds"][part] for part in ("training", "evaluation", "saving")]
        assert min(parts) > 0 and sum(parts) < start["seconds"]["total"]


def test_the_commit_is_that_of_the_clone(tmp_path, monkeypatch):
    (tmp_path / "cnn_jax").mkdir()
    monkeypatch.setattr(run_record, "__file__", str(tmp_path / "cnn_jax" / "tracking" / "run_record.py"))
    assert run_record.commit() is None

    def git(*arguments):
        line = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    assert run_record.commit() == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("22")
    assert run_record.commit() == git("rev-parse", "HEAD") + "-dirty"


def test_reading_a_record_imports_no_jax():
    script = "import sys, cnn_jax.tracking.run_record; assert not {'jax', 'flax'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
