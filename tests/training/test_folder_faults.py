"""A run in this process whose folder, records or pictures fail."""

import json
import shutil

import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.pretrained import source
from cnn_jax.training import evaluate_run, session
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options


@pytest.fixture
def short(small_config):
    small_config.duration, small_config.checkpoint.every, small_config.log.every = "4 steps", "2 steps", "1 steps"
    small_config.eval.every = "4 steps"
    return small_config


@pytest.fixture
def finished(tmp_path, short, console):
    train.run(short, tmp_path / "run", Options(console=console))
    return tmp_path / "run"


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_folder_that_goes_away_ends_the_run(tmp_path, short, console, monkeypatch, how):
    folder = tmp_path / "run"

    def going(batches):
        for i, batch in enumerate(batches, start=1):
            if i == 3:
                folder.rename(tmp_path / "elsewhere")
                if how == "removed":
                    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)  # a save is under way
            yield batch

    monkeypatch.setattr(session, "ahead", going)
    with pytest.raises(StorageError, match="run was moved or removed while the run was training"):
        train.run(short, folder, Options(console=console))


def test_a_source_whose_checkpoint_disappears_takes_another(finished, monkeypatch):
    """As where a run resumes and removes the checkpoint that is being read."""
    run = Checkpoints.run

    def removing(checkpoints, step):
        if step == 4:
            shutil.rmtree(finished / "checkpoints" / "4")
        return run(checkpoints, step)

    monkeypatch.setattr(Checkpoints, "run", removing)
    assert source.open_source(str(finished)).name.endswith("@2")


def test_a_lock_that_is_removed_and_taken_ends_the_run(tmp_path, short, console, monkeypatch):
    def removing(batches):
        for i, batch in enumerate(batches, start=1):
            if i == 2:
                (tmp_path / "run" / ".lock").rename(tmp_path / "removed")
                (tmp_path / "run" / ".lock").write_text("")
            yield batch

    monkeypatch.setattr(session, "ahead", removing)
    with pytest.raises(UserError, match="run is in use by another run: somebody removed"):
        train.run(short, tmp_path / "run", Options(console=console))


def test_a_failed_picture_loses_no_result(tmp_path, short, console, monkeypatch):
    short.eval.confusion_matrix = True
    for plot in ("plot_curves", "plot_confusion"):

        def failing(*_):
            raise ValueError("matplotlib")

        failing.__name__ = plot
        monkeypatch.setattr(session.plots, plot, failing)
    train.run(short, tmp_path / "run", Options(console=console))
    text = console.file.getvalue()
    assert "a picture cannot be drawn (plot_confusion): ValueError: matplotlib" in text
    assert text.index("top-1 accuracy") < text.index("plot_confusion")


def test_results_are_printed_before_they_are_written(tmp_path, finished, short, console, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate_run, "_record", full)
    with pytest.raises(StorageError, match="the evaluation cannot be written"):
        evaluate_run.evaluate_run(short, finished, "latest", console=console)
    assert console.file.getvalue().count("top-1 accuracy") == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", ""),
        ("data.json", "[]"),
        pytest.param("input.json", "{", marks=pytest.mark.slow),
        pytest.param("input.json", None, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_record_is_written_again(finished, short, console, name, text):
    before = (finished / name).read_text()
    if text is None:
        (finished / name).unlink()
    else:
        (finished / name).write_text(text)
    train.run(short, finished, Options(console=console))
    assert (finished / name).read_text() == before


def test_missing_or_truncated_records_are_reported(finished, short, console):
    path = finished / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "tr')
    train.run(short, finished, Options(console=console))
    assert "the last line of metrics.jsonl was cut off: it is removed" in console.file.getvalue()
    path.unlink()
    train.run(short, finished, Options(console=console))
    assert "metrics.jsonl is missing: the records up to step 4 are lost" in console.file.getvalue()
    path.write_text('{"a"\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: line 1 is not a record"):
        train.run(short, finished, Options(console=console))


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, finished, short, console):
    other = short.copy_and_resolve_references()
    other.optim.momentum = 0.5
    train.run(other.lock(), tmp_path / "other", Options(console=console))
    shutil.rmtree(finished / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", finished / "checkpoints")
    for use in (
        lambda: train.run(short, finished, Options(console=console)),
        lambda: evaluate_run.evaluate_run(short, finished, "latest", console=console),
        lambda: source.open_source(str(finished)),
    ):
        with pytest.raises(UserError, match="checkpoints/4 was saved by another run: its configuration"):
            use()


def test_a_checkpoint_removed_while_read_is_chosen_again(finished, monkeypatch):
    checkpoints = finished / "checkpoints"
    read, tries = Checkpoints.read_weights, []

    def racing(self, step):
        tries.append(step)
        if len(tries) == 1:  # as a run with keep=1 does
            shutil.copytree(checkpoints / "4", checkpoints / "6")
            shutil.rmtree(checkpoints / "4")
            raise FileNotFoundError("4")
        return read(self, step)

    monkeypatch.setattr(Checkpoints, "read_weights", racing)
    assert source.open_source(str(finished)).name.endswith("@6") and tries == [4, 6]
    monkeypatch.setattr(Checkpoints, "read_weights", lambda self, step: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):  # nothing has gone: it is a defect
        source.open_source(str(finished))
