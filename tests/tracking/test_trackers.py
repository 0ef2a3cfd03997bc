import json
import sys

import numpy as np
import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.tracking import trackers
from cnn_jax.tracking.recorder import Recorder
from cnn_jax.tracking.trackers import Trackers
from cnn_jax.training import loop
from cnn_jax.training.session import Options

OWN = """
CALLS = []

class Calls:
    def __init__(self, folder, *, name, config, step, run_id):
        self.run_id = run_id or "first"
        self.had = 2 if run_id else -1
        CALLS.append(("start", name, config["seed"], step, run_id))

    def last(self, name):
        return self.had

    def scalars(self, step, values):
        CALLS.append((step, values))

    def image(self, step, name, pixels):
        CALLS.append((step, name, pixels.shape))

    def text(self, name, text):
        CALLS.append((name, text))

    def flush(self):
        CALLS.append("flush")

    def finish(self, results):
        CALLS.append(("finish", results))

class Offline(Calls):
    def scalars(self, step, values):
        CALLS.append("tried")
        raise ConnectionError("no network")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The calls of trackers in a module of the user's."""
    (tmp_path / "own_trackers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("own_trackers").CALLS
    del sys.modules["own_trackers"]


def start(text, folder, step=0, report=print):
    return Trackers(text, folder, name="runs/mine", config={"seed": 7, "data.augment": []}, step=step, report=report)


def events(folder):
    """Returns (tag, step, value) of every summary in the TensorBoard files, which a test has no reader for."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((folder / "tensorboard").glob("events*")):
        data = file.read_bytes()
        while data:  # records of length (8 bytes), checksum (4), event, checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return found


def test_tensorboard_holds_scalars_images_and_hparams(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    with start("tensorboard", tmp_path) as opened, Recorder(tmp_path, step=0, trackers=opened) as recorder:
        recorder.write("train", 7, 0.5, loss=1.25, images_per_second=None, class_accuracy=[1.0], skipped=float("nan"))
        opened.image(0, "train/images", np.zeros((4, 6, 3), np.uint8))
        opened.results = {"test/error": 0.25}
    found = {tag: (step, value) for tag, step, value in events(tmp_path)}
    assert found.keys() == {
        *("train/loss", "train/images"),
        *("_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"),
    }
    assert found["train/loss"][0] == 7 and found["train/loss"][1].simple_value == 1.25
    assert (found["train/images"][1].image.height, found["train/images"][1].image.width) == (4, 6)
    content = HParamsPluginData()
    content.ParseFromString(found["_hparams_/session_start_info"][1].metadata.plugin_data.content)
    assert content.session_start_info.hparams["seed"].number_value == 7
    content.ParseFromString(found["_hparams_/experiment"][1].metadata.plugin_data.content)
    assert [metric.name.tag for metric in content.experiment.metric_infos] == ["test/error"]


def test_a_resumed_run_reports_what_its_tracker_lacks(tmp_path, own):
    name = "own_trackers:Calls"
    with start(name, tmp_path) as opened, Recorder(tmp_path, step=0, trackers=opened) as recorder:
        for step in (1, 2, 3, 4):
            recorder.write("train", step, step / 4, loss=float(step))
        recorder.sync()
    assert json.loads((tmp_path / "trackers.json").read_text()) == {name: "first"}
    assert own == [
        ("start", "runs/mine", 7, 0, None),
        *((step, {"train/loss": float(step), "train/epoch": step / 4}) for step in (1, 2, 3, 4)),
        "flush",
        ("finish", None),
    ]
    own.clear()  # this tracker holds steps 1 and 2, the checkpoint is of step 3
    with start(name, tmp_path, step=3) as opened, Recorder(tmp_path, step=3, trackers=opened) as recorder:
        recorder.write("train", 4, 1.0, loss=4.0)
        opened.results = {"test/error": 0.5}
    third, fourth = ((step, {"train/loss": float(step), "train/epoch": step / 4}) for step in (3, 4))
    assert own == [("start", "runs/mine", 7, 3, "first"), third, fourth, ("finish", {"test/error": 0.5})]
    # A run that begins anew is a new one there, too.
    with start(name, tmp_path) as opened:
        assert own[-1] == ("start", "runs/mine", 7, 0, None) and opened.open.keys() == {name}


def test_an_error_of_a_tracker_is_one_warning(tmp_path, own):
    said = []
    both = start("own_trackers:Offline, own_trackers:Calls", tmp_path, report=said.append)
    with both as opened, Recorder(tmp_path, step=0, trackers=opened) as recorder:
        recorder.write("train", 1, 0.5, loss=1.0)
        recorder.write("train", 2, 1.0, loss=2.0)
    assert own.count("tried") == 1 and [call[0] for call in own if call[0] in (1, 2)] == [1, 2]
    (warning,) = said
    assert warning.startswith("warning: own_trackers:Offline gets no more of this start (ConnectionError: no network)")


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'wandb', which is not installed: pip install 'cnn-jax\[wandb\]'"):
        start("tensorboard,wandb", tmp_path)


def test_images_are_one_picture_with_lines_between():
    images = np.stack([np.full((2, 3, 1), 10 * number, np.uint8) for number in range(3)])
    picture = trackers.grid(images, columns=2)
    assert picture.shape == (5, 7, 3) and (picture[2] == 255).all() and (picture[:, 3] == 255).all()
    assert (picture[:2, :3] == 0).all() and (picture[:2, 4:] == 10).all() and (picture[3:, :3] == 20).all()


def test_a_run_shows_its_network_images_and_results(tmp_path, small_config, console, own):
    small_config.log.trackers = "own_trackers:Calls"
    small_config.data.augment = ("flip",)
    final = loop.run(small_config, tmp_path / "run", Options(console=console))
    (network,) = (call[1] for call in own if call[0] == "network")
    assert network == (tmp_path / "run" / "summary.txt").read_text()
    (shape,) = (call[2] for call in own if call[:2] == (0, "train/images"))
    assert shape == (4 * 29 - 1, 8 * 29 - 1, 3)
    assert own[-1][1]["test/error"] == final["test"]["error"]
    assert [call[0] for call in own if "train/loss" in call[1]] == [4, 8, 12, 16, 20]


# ---------------------------------------------------------------- the real packages, without a network


def recorded(text, folder, *, steps, after=0, results=None):
    """Runs `Trackers` and a recorder over some steps, as a start of a run does."""
    with start(text, folder, step=after) as opened, Recorder(folder, step=after, trackers=opened) as recorder:
        assert opened.open.keys() == {text}
        if not after:
            opened.image(0, "train/images", np.zeros((4, 6, 3), np.uint8))
            opened.text("network", "a table")
        for step in steps:
            recorder.write("train", step, step / 10, loss=1 / step)
            recorder.write("validation", step, step / 10, error=1 / step)
        opened.results = results


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")  # those of other projects
def test_mlflow_has_every_step_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    recorded("mlflow", folder, steps=(1, 2, 3))
    recorded("mlflow", folder, steps=(3, 4), after=2, results={"test/error": 0.5})
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("cnn_jax").experiment_id])
    assert run.info.run_name == "runs/mine" and run.info.status == "FINISHED" and run.data.params["seed"] == "7"
    for name in ("train/loss", "validation/error"):
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert sorted(points) == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"train_images.png", "network.txt"}


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_a_server_of_mlflow_that_is_away_is_one_warning(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = []
    with (
        start("mlflow", tmp_path, report=said.append) as opened,
        Recorder(tmp_path, step=0, trackers=opened) as recorder,
    ):
        recorder.write("train", 1, 1.0, loss=1.0)
    assert len(said) == 1 and said[0].startswith("warning: mlflow gets no more of this start")


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_trackio_has_every_step_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    folder = tmp_path / "run"
    folder.mkdir()
    recorded("trackio", folder, steps=(1, 2, 3))
    recorded("trackio", folder, steps=(3, 4), after=2, results={"test/error": 0.5})
    (name,) = SQLiteStorage.get_runs("cnn_jax")
    logs = SQLiteStorage.get_logs("cnn_jax", name)
    for key in ("train/loss", "validation/error"):
        assert sorted((log["step"], log[key]) for log in logs if key in log) == [(s, 1 / s) for s in (1, 2, 3, 4)]


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_wandb_writes_a_run_and_resumes_it_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    recorded("wandb", folder, steps=(1, 2))
    recorded("wandb", folder, steps=(3, 4), after=2, results={"test/error": 0.5})
    starts = sorted((folder / "wandb").glob("offline-run-*"))
    (run_id,) = {path.name.rpartition("-")[2] for path in starts}  # both starts are one run
    assert run_id == json.loads((folder / "trackers.json").read_text())["wandb"]
    points = sorted((step, loss) for path in starts for step, loss in wandb_history(path / f"run-{run_id}.wandb"))
    assert points == [(step, 1 / step) for step in (1, 2, 3, 4)]


def wandb_history(path):
    """Yields (step, train/loss) of an offline file: LevelDB's log format behind 7 bytes, protocol buffers inside."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # no header fits the rest of a block
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            items = {
                item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item
            }
            if "train/loss" in items:
                yield record.history.step.num, float(items["train/loss"])
