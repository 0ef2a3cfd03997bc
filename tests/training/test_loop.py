import json
import shutil

import jax
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.core.errors import NotFiniteError, UserError
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import evaluate_run, session
from cnn_jax.training import loop as train
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from cnn_jax.training.throughput import MEASURED
from tfds_files import prepare
from tiers import quick


def records(folder, kind=None):
    """Records without the speed, which differs from run to run."""
    found = [{k: v for k, v in r.items() if k not in MEASURED} for r in read_jsonl(folder / "metrics.jsonl")]
    return [r for r in found if kind in (None, r["kind"])]


def test_a_run_writes_all_that_inspection_and_resuming_need(tmp_path, small_config, console):
    small_config.log.trackers = "tensorboard"
    small_config.eval.confusion_matrix = True
    final = train.run(small_config, tmp_path / "run", Options(console=console))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {
        ".lock",
        "config.json",
        "data.json",
        "run.json",
        "input.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "summary.txt",
        "curves.png",
    }
    assert names == expected | {"confusion_matrix.png"}
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(small_config.to_json())
    assert [r["step"] for r in records(tmp_path / "run", "train")] == [4, 8, 12, 16, 20]
    assert [r["step"] for r in records(tmp_path / "run", "validation")] == [5, 10, 15, 20]
    (test,) = records(tmp_path / "run", "test")
    assert test["error"] == final["test"]["error"] and test["examples"] == 359
    assert final["test"]["confusion"].sum() == 359
    printed = console.file.getvalue()
    for fact in ("digits", "1,258 train", "lenet5", "parameters", "MACs", "cpu", "20 steps", "memory", "results"):
        assert fact in printed.split("first step")[0], fact
    assert "top-1 accuracy" in printed


def test_layers_are_recorded_without_any_other_number_changing(tmp_path, small_config, console):
    plain = train.run(small_config, tmp_path / "plain", Options(console=console))
    small_config.log.layers, small_config.checkpoint.keep = "8 steps", 10
    final = train.run(small_config, tmp_path / "run", Options(console=console))
    assert final["test"]["loss"] == plain["test"]["loss"]
    assert records(tmp_path / "run") == records(tmp_path / "plain")
    found = read_jsonl(tmp_path / "run" / "layers.jsonl")
    assert [record["step"] for record in found] == [0, 8, 16, 20] and (tmp_path / "run" / "layers.png").exists()
    assert found[0]["layers"][0]["name"] == "conv1/conv" and found[0] != found[1]
    # A run that stopped after step 10 records the later steps again.
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name) > 10:
            shutil.rmtree(path)
    train.run(small_config, tmp_path / "run", Options(console=console))
    assert read_jsonl(tmp_path / "run" / "layers.jsonl") == found


@pytest.mark.parametrize(("rate", "said"), [(1e-6, 1), (0.1, 0)])
def test_a_network_that_has_not_learned_is_reported(tmp_path, small_config, console, rate, said):
    small_config.optim.learning_rate = rate
    train.run(small_config, tmp_path, Options(console=console))
    assert console.file.getvalue().count("note: the network has not learned") == said


def test_a_dry_run_prints_the_facts_and_writes_nothing(tmp_path, small_config, console):
    assert train.run(small_config, tmp_path / "run", Options(dry_run=True, console=console)) == {}
    assert not (tmp_path / "run").exists()
    assert "lenet5" in console.file.getvalue()


def test_a_dry_run_needs_no_prepared_data(tmp_path, console):
    config = recipes.get_config("resnet20", "cifar10")
    config.data.dir = str(tmp_path)
    assert train.run(config, tmp_path / "run", Options(dry_run=True, console=console)) == {}
    assert "45,000 train, 5,000 validation, 10,000 test; 10 classes" in console.file.getvalue()


def test_evaluation_alone_gives_exactly_the_numbers_of_training(tmp_path, small_config, console):
    final = train.run(small_config, tmp_path, Options(console=console))
    for which in ("latest", "20"):
        again = evaluate_run.evaluate_run(small_config, tmp_path, which, console=console)
        for part in ("validation", "test"):
            for name in ("loss", "error", "top5_error", "examples"):
                assert again[part][name] == final[part][name], (which, part, name)
            np.testing.assert_array_equal(again[part]["class_accuracy"], final[part]["class_accuracy"])
    assert [r["step"] for r in read_jsonl(tmp_path / "evaluations.jsonl")] == [20] * 4


def test_an_evaluation_at_an_earlier_step_equals_the_record_of_that_step(tmp_path, small_config, console):
    small_config.checkpoint.keep = 10
    train.run(small_config, tmp_path, Options(console=console))
    recorded = next(r for r in records(tmp_path, "validation") if r["step"] == 10)
    again = evaluate_run.evaluate_run(small_config, tmp_path, "10", console=console)["validation"]
    assert (again["loss"], again["error"]) == (recorded["loss"], recorded["error"])


@pytest.mark.parametrize("stop", quick([13, 20], [13]))
def test_a_stopped_run_resumes_to_the_same_numbers(tmp_path, small_config, console, monkeypatch, stop):
    whole = train.run(small_config, tmp_path / "whole", Options(console=console))

    def stopping(batches):
        for i, batch in enumerate(batches, start=1):
            yield batch
            if i == stop:  # after the step that took this batch
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "ahead", stopping)
        train.run(small_config, tmp_path / "stopped", Options(console=console))
    resumed = train.run(small_config, tmp_path / "stopped", Options(console=console))
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    assert resumed["test"]["loss"] == whole["test"]["loss"]


def final_state(config, folder, step):
    with Checkpoints(folder) as checkpoints:
        return jax.device_get(States(build(config)).restore(checkpoints, step))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adafactor", "lars", "contrib.muon", "contrib.prodigy"])
def test_stopped_run_of_another_optimizer_resumes_exactly(tmp_path, small_config, console, monkeypatch, name):
    small_config.optim.name, small_config.optim.learning_rate = name, 0.01
    small_config.optim.weight_decay, small_config.optim.schedule.name = 0.01, "cosine_restarts"
    small_config.optim.schedule.cycle, small_config.optim.schedule.warmup_start = "6 steps", 0.1
    with small_config.unlocked():
        small_config.optim.options = {"min_dim_size_to_factor": 4} if name == "adafactor" else {}
    train.run(small_config, tmp_path / "whole", Options(console=console))

    def stopping(batches):
        for i, batch in enumerate(batches, start=1):
            yield batch
            if i == 13:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "ahead", stopping)
        train.run(small_config, tmp_path / "stopped", Options(console=console))
    train.run(small_config, tmp_path / "stopped", Options(console=console))
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    states = [final_state(small_config, tmp_path / folder, 20) for folder in ("stopped", "whole")]
    assert jax.tree.leaves(states[0].opt_state)
    jax.tree.map(np.testing.assert_array_equal, *states)
    other = small_config.copy_and_resolve_references()
    other.optim.name = "sgd"
    other.optim.options = {}
    with pytest.raises(UserError, match=rf"config\.optim\.name: '{name}' in the folder, 'sgd' now"):
        train.run(other, tmp_path / "whole", Options(console=console))


@pytest.mark.slow
def test_a_finished_run_can_be_started_again_and_says_the_same(tmp_path, small_config, console):
    train.run(small_config, tmp_path, Options(console=console))
    before = records(tmp_path)
    train.run(small_config, tmp_path, Options(console=console))
    assert records(tmp_path) == before and "(this run is finished; --extend" in console.file.getvalue()


def test_another_configuration_in_the_folder_is_refused(tmp_path, small_config, console):
    train.run(small_config, tmp_path, Options(console=console))
    small_config.optim.momentum = 0.5
    with pytest.raises(UserError, match=r"config\.optim\.momentum: 0\.9 in the folder, 0\.5 now"):
        train.run(small_config, tmp_path, Options(console=console))


def test_output_fields_may_change_when_a_run_resumes(tmp_path, small_config, console):
    train.run(small_config, tmp_path, Options(console=console))
    small_config.log.every = "7 steps"
    small_config.checkpoint.keep = 1
    assert train.run(small_config, tmp_path, Options(console=console))["test"]["examples"] == 359


def test_a_nonfinite_loss_stops_the_run_and_names_the_step(tmp_path, small_config, console):
    small_config.model.activation = "relu"
    small_config.optim.learning_rate = 1e20
    with pytest.raises(NotFiniteError, match=r"loss is nan .* at step \d+; .*\n.*lower config\.optim\.learning_rate"):
        train.run(small_config, tmp_path, Options(console=console))


def test_a_nonfinite_state_is_never_saved(tmp_path, small_config, console):
    small_config.model.activation = "relu"
    small_config.optim.learning_rate = 1e20
    small_config.log.every = "20 steps"
    small_config.checkpoint.every = "1 steps"
    with pytest.raises(UserError, match=r"is nan|is inf"):
        train.run(small_config, tmp_path, Options(console=console))
    with Checkpoints(tmp_path) as checkpoints:
        run = build(small_config)
        state = States(run).restore(checkpoints, checkpoints.select("latest", print))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_a_folder_without_a_checkpoint_takes_another_configuration(tmp_path, small_config, console):
    small_config.model.activation = "relu"
    small_config.optim.learning_rate = 1e20
    with pytest.raises(UserError, match=r"is nan|is inf"):
        train.run(small_config, tmp_path, Options(console=console))
    small_config.optim.learning_rate = 0.1
    assert train.run(small_config, tmp_path, Options(console=console))["test"]["examples"] == 359


def test_all_parts_share_one_compiled_evaluation(small_config):
    run = build(small_config)
    state, evaluator = States(run).create(), Evaluator(run)
    for part in ("validation", "test", "validation"):
        evaluator.evaluate(state, part)
    assert evaluator._eval_step._cache_size() == 1


def test_an_evaluation_with_another_configuration_is_refused(tmp_path, small_config, console):
    train.run(small_config, tmp_path, Options(console=console))
    small_config.model.activation = "relu"  # the same arrays, another function
    with pytest.raises(UserError, match=r"config\.model\.activation: 'tanh' in the folder, 'relu' now"):
        evaluate_run.evaluate_run(small_config, tmp_path, "latest", console=console)


def test_the_plateau_divides_the_learning_rate(tmp_path, small_config, console):
    small_config.optim.schedule.name = "plateau"
    small_config.optim.schedule.warmup = "0 steps"
    small_config.optim.schedule.patience = 1
    small_config.optim.schedule.min_improvement = 1.0  # nothing counts after the first validation
    train.run(small_config, tmp_path, Options(console=console))
    rates = [r["learning_rate"] for r in records(tmp_path, "train")]  # validations after steps 5, 10, 15, 20
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001, 0.001], rtol=1e-6)


def test_the_best_validation_is_kept_even_where_no_save_is_due(tmp_path, small_config, console):
    small_config.checkpoint.every = "19 steps"  # no validation falls on it
    small_config.checkpoint.keep = 1
    small_config.optim.learning_rate = 0.3
    small_config.optim.schedule.name = "constant"
    train.run(small_config, tmp_path, Options(console=console))
    errors = {r["step"]: r["error"] for r in records(tmp_path, "validation")}
    best = evaluate_run.evaluate_run(small_config, tmp_path, "best", console=console)["validation"]
    assert best["error"] == min(errors.values())


def test_training_on_the_validation_part_leaves_only_the_test(tmp_path, small_config, console):
    small_config.data.train_on = "train+validation"
    final = train.run(small_config, tmp_path, Options(console=console))
    assert set(final) == {"test"} and not records(tmp_path, "validation")
    assert "1,438 train, 359 test" in console.file.getvalue()
    with pytest.raises(UserError, match="use --checkpoint=latest"):
        evaluate_run.evaluate_run(small_config, tmp_path, "best", console=console)


@pytest.mark.slow
def test_averages_micro_batches_and_recomputed_statistics_work_together(tmp_path, console):
    config = recipes.get_config("cifar_resnet")
    config.model.depth, config.model.width = 8, 0.25
    config.data.image_size = (8, 8)
    config.duration = "12 steps"
    config.optim.schedule.warmup = "2 steps"
    config.accumulation = 2
    config.ema_decay = 0.9
    config.eval.recompute_statistics = 3
    config.log.trackers = ""
    final = train.run(config.lock(), tmp_path, Options(console=console))
    again = evaluate_run.evaluate_run(config, tmp_path, "latest", console=console)
    assert again["test"]["loss"] == final["test"]["loss"]
    config.eval.recompute_statistics = 0
    running = evaluate_run.evaluate_run(config, tmp_path, "latest", console=console)
    assert running["test"]["loss"] != final["test"]["loss"]  # the test part sees the recomputed statistics,
    assert running["validation"]["loss"] == final["validation"]["loss"]  # the validation part never does


def test_batches_are_asked_for_ahead_of_the_step_that_takes_them():
    asked = []
    ahead = session.ahead((asked.append(i) or i for i in range(5)), count=2)
    assert next(ahead) == 0 and asked == [0, 1, 2]
    assert list(ahead) == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_recipe_of_imagenet_trains_on_photographs_of_any_size(tmp_path, console):
    """Streamed JPEG files, random crops, a center crop for the test, bfloat16: all but the size of ImageNet."""
    random = np.random.default_rng(0)

    def photograph(_split, i):
        return random.integers(0, 256, (20 + 3 * i % 17, 24 + 5 * i % 13, 3), np.uint8)

    files = dict(splits=dict(train=100, validation=9), shape=(None, None, 3), num_classes=1000, file_type="jpeg")
    data_dir = prepare(tmp_path / "files", "imagenet2012", "5.1.0", photograph, **files)
    config = recipes.get_config("resnet18", "imagenet2012")
    config.data.dir = str(data_dir)
    config.data.image_size, config.data.test_resize = (16, 16), 18
    config.model.width = 0.0625
    config.duration, config.batch_size, config.eval.batch_size = "3 steps", 8, 8
    config.optim.schedule.warmup = "1 steps"
    config.log.trackers = ""
    final = train.run(config.lock(), tmp_path / "run", Options(console=console))
    assert final["test"]["examples"] == 9 and final["validation"]["examples"] == 1
    assert (
        evaluate_run.evaluate_run(config, tmp_path / "run", "latest", console=console)["test"]["loss"]
        == final["test"]["loss"]
    )
