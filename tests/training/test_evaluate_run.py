"""An ensemble is the plain average of its members' class probabilities over one test part."""

import json
import shutil

import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import UserError
from cnn_jax.training import evaluate_run
from cnn_jax.training import loop as train
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


def small(seed: int, **fields):
    config = recipes.get_config("lenet5")
    config.update_from_flattened_dict(
        {
            "seed": seed,
            "duration": "12 steps",
            "optim.schedule.warmup": "0 steps",
            "model.width": 0.25,
            "log.trackers": "",
        }
        | fields
    )
    return config


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Returns two trained runs, of networks that differ in width and image size."""
    top = tmp_path_factory.mktemp("runs")
    found = []
    for seed, fields in ((0, {}), (1, {"model.width": 0.5, "data.image_size": (20, 20)})):
        config = small(seed, **fields)
        train.run(config, top / str(seed))
        found.append((config, top / str(seed), "latest"))
    return found


def probabilities(config, folder):
    this = build(config)
    with Checkpoints(folder) as checkpoints:
        return Evaluator(this).predict(States(this).restore(checkpoints, 12), "test")


@pytest.mark.slow
def test_the_ensemble_is_the_average_of_its_members(members, tmp_path):
    files = {"json_file": tmp_path / "a.json", "output": tmp_path / "page"}
    found = evaluate_run.evaluate_ensemble(members, tmp_path / "both", **files)
    shares = [probabilities(config, folder) for config, folder, _ in members]
    labels = shares[0][1]
    mean = (shares[0][0] + shares[1][0]) / 2
    metrics = found["ensemble"]
    assert metrics["error"] == pytest.approx(np.mean(mean.argmax(1) != labels), abs=1e-9)
    assert metrics["loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), rel=1e-6)
    assert metrics["protocol"] == "2 networks, whole"
    told = json.loads((tmp_path / "a.json").read_text())
    rows = (tmp_path / "page" / "predictions.csv").read_text().splitlines()
    assert told["top1_accuracy"] == pytest.approx(1 - metrics["error"]) and len(rows) == len(labels) + 1
    # Each member's own numbers are those of its evaluation.
    for (config, folder, which), (own, _) in zip(members, shares, strict=True):
        again = evaluate_run.evaluate_run(config, folder, which)["test"]
        member = found[f"{folder}@{which}"]
        assert member["error"] == pytest.approx(again["error"], abs=1e-9)
        assert member["loss"] == pytest.approx(again["loss"], rel=1e-5)
        assert own.argmax(1).tolist() != mean.argmax(1).tolist()
    lines = [json.loads(line) for line in (tmp_path / "both" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["of"] for line in lines] == list(found)
    assert lines[-1]["error"] == metrics["error"] and len(lines[-1]["members"]) == 2


@pytest.mark.slow
def test_impossible_ensembles_are_errors(members, tmp_path):
    with pytest.raises(UserError, match="at least two runs"):
        evaluate_run.evaluate_ensemble(members[:1])
    with pytest.raises(UserError, match="names a run twice"):
        evaluate_run.evaluate_ensemble([members[0], members[0]])
    other = small(0, **{"data.test": "15%", "data.train": "75%"})
    train.run(other, tmp_path / "other")
    with pytest.raises(UserError, match="an ensemble needs one test part"):
        evaluate_run.evaluate_ensemble([members[0], (other, tmp_path / "other", "latest")])


@pytest.mark.slow
def test_a_run_ends_with_the_protocol_that_its_configuration_asks_for(tmp_path):
    config = small(0, **{"eval.protocol": "flip"})
    final = train.run(config, tmp_path / "flip")
    assert final["test"]["protocol"] == "whole and flipped" and final["validation"]["protocol"] == "whole"
    single = evaluate_run.evaluate_run(_changed(config, "single"), tmp_path / "flip", "latest")["test"]
    assert single["protocol"] == "whole" and single["loss"] != final["test"]["loss"]
    records = [json.loads(line) for line in (tmp_path / "flip" / "metrics.jsonl").read_text().splitlines()]
    assert [record.get("protocol") for record in records if record["kind"] == "test"] == ["whole and flipped"]


def test_a_network_of_one_size_says_so_before_it_is_trained():
    config = recipes.get_config("local")
    config.update_from_flattened_dict(
        {"eval.protocol": "dense", "eval.scales": (32,), "data.placement": "stream", "data.mean": (0.3,)}
        | {"data.std": (0.4,), "data.augment": ()}
    )
    with pytest.raises(UserError, match="images of another size need a network of their own"):
        build(config)


@pytest.mark.slow
def test_dense_evaluation_of_a_run_on_larger_images(tmp_path):
    config = small(0, **{"data.placement": "stream", "data.mean": (0.3,), "data.std": (0.4,), "data.workers": 2})
    train.run(config, tmp_path)
    dense = _changed(config, "dense", "eval.scales=(28,32)")
    metrics = evaluate_run.evaluate_run(dense, tmp_path, "latest")["test"]
    assert metrics["protocol"].startswith("dense and flipped, shorter side to 28, 32") and metrics["examples"] == 359
    assert metrics["error"] < 0.9


def _changed(config, protocol, *changes):
    return Configuration(config).with_overrides([f"eval.protocol={protocol}", *changes]).config


def test_evaluation_takes_another_checkpoint_if_one_is_removed(tmp_path, monkeypatch):
    config = small(0, **{"checkpoint.every": "6 steps", "checkpoint.keep": 2})
    train.run(config, tmp_path / "run")
    restore, chosen = Checkpoints.restore, []

    def remove_first(self, step, like):
        chosen.append(step)
        if step == 12:
            shutil.rmtree(self.folder / "12")
        return restore(self, step, like)

    monkeypatch.setattr(Checkpoints, "restore", remove_first)
    evaluate_run.evaluate_run(config, tmp_path / "run", "latest")
    assert chosen == [12, 6]
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in lines} == {6}
