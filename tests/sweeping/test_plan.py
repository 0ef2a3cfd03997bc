from dataclasses import replace
from pathlib import Path

import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.sweeping.plan import check_fit, differing, first_tasks, plan, plan_sheet, seeds_in, tasks
from cnn_jax.sweeping.question import ARM, Experiment, experiments, grid, load
from tiers import quick

SMALL = load(str(Path(__file__).parents[1] / "helpers" / "small_experiment.py"))
RESNETS = Experiment(
    arms=tuple(grid("configs/cifar_resnet.py", {"model.depth": (8,), "model.residual": (True, False)})),
    compare=("model.residual",),
    equal=("parameters", "macs"),
)


def test_the_plan_has_the_sizes_of_each_arm_by_hand():
    # 16x16 pixels, 5 of 100 hidden units, 10 classes.
    narrow = plan(SMALL)[1]
    assert narrow.parameters == 256 * 5 + 5 + 5 * 10 + 10 and narrow.macs == 256 * 5 + 5 * 10


def test_an_arm_that_computes_blocks_again_takes_less_memory():
    fields = {"model.depth": (20,), "model.residual": (True, False)}
    again, whole = (
        plan(replace(RESNETS, arms=tuple(grid("configs/cifar_resnet.py", fields | {"remat": (remat,)}))))[0].memory
        for remat in (True, False)
    )
    assert again < 0.7 * whole


def test_arms_of_unequal_parameters_are_refused():
    first, second = plan(RESNETS)
    assert first.parameters == second.parameters and first.macs == second.macs
    depths = tuple(grid("configs/cifar_resnet.py", {"model.depth": (8, 14)}))
    unequal = replace(RESNETS, arms=depths, compare=("model.depth",))
    with pytest.raises(UserError, match=r"of equal parameters, but these differ: depth=8: [\d,]+, depth=14: [\d,]+"):
        plan(unequal)


def test_differences_are_listed_for_every_pair():
    (line,) = differing(RESNETS, plan(RESNETS)).lines
    assert line == ("depth=8 residual=False", "depth=8 residual=True", "model.residual: False for True")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.residul": (True, False)}, "residul"),
        ({"model.depth": (8, 9)}, "depth is 9, but must be 6n"),
        ({"model.width": ("wide",)}, "width"),
        ({"duration": ("5 apples",)}, "5 apples"),
    ],
)
def test_a_grid_over_an_unknown_field_is_one_message(changes, message):
    with pytest.raises(UserError, match=message):
        plan(replace(RESNETS, arms=tuple(grid("configs/cifar_resnet.py", changes)), equal=()))


def test_arms_of_one_configuration_collide():
    first, second = (grid("configs/cifar_resnet.py", {f: (v,)}) for f, v in (("model.depth", 20), ("model.width", 1.0)))
    with pytest.raises(UserError, match=r"'depth=20' and 'width=1\.0' have one configuration"):
        plan(replace(RESNETS, arms=(*first, *second)))


def test_tasks_go_seed_by_seed_and_refuse_other_configurations(tmp_path):
    planned = plan(SMALL)
    found = tasks(planned, range(2), tmp_path)
    assert [task.name for task in found] == [
        *("width=0.1, seed 0", "width=0.05, seed 0", "width=0.1, seed 1", "width=0.05, seed 1"),
    ]
    assert found[1].folder == tmp_path / "width=0.05" / "seed-0" and found[1].finished() is None
    assert found[1].command[1:4] == ["-m", "cnn_jax.main", "--config=configs/mlp.py:digits"]
    assert found[1].command[-1] == f"--workdir={found[1].folder}" and "--config.seed=0" in found[1].command
    check_fit(found)
    found[1].folder.mkdir(parents=True)
    config = found[1].config.copy_and_resolve_references()
    (found[1].folder / "config.json").write_text(config.to_json())
    check_fit(found)
    config.log.every = "7 steps"  # what is printed
    (found[1].folder / "config.json").write_text(config.to_json())
    check_fit(found)
    for field, value in (("optim.learning_rate", 7.0), ("eval.layers", True)):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: value})
        (found[1].folder / "config.json").write_text(changed.to_json())
        with pytest.raises(UserError, match=rf"{field}: {value} in the folder, .*\n.*another --folder"):
            check_fit(found)
    assert seeds_in(tmp_path) == {0}


@pytest.mark.parametrize("grid", ["", pytest.param(":cifar10:full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", quick([path.stem for path in experiments()], ("heads", "transfer")))
def test_every_experiment_of_the_project_can_be_planned(name, grid):
    experiment = load(f"{name}{grid}")
    planned = plan(experiment)
    assert all(one.parameters > 0 and one.macs > 0 for one in planned)
    compared = differing(experiment, planned).lines
    assert len(compared) == len(experiment.pairs())
    for _, _, fields in compared:
        if ARM in experiment.compare:  # whole networks
            assert "model." in fields, fields
        else:
            assert fields.count(" for ") == 1, fields  # one field, and nothing else


def test_the_table_of_the_plan_has_a_line_for_each_arm():
    sheet = plan_sheet(plan(RESNETS))
    assert [line[0] for line in sheet.lines] == ["depth=8 residual=True", "depth=8 residual=False"]


def make_task(folder):
    return tasks(plan(SMALL)[:1], [0], folder)[0]


def test_a_failure_is_kept_until_the_run_succeeds(tmp_path):
    task = make_task(tmp_path)
    assert task.failure is None
    task.fail("it was too hot")
    assert task.failure == make_task(tmp_path).failure == "it was too hot"
    task.fail(None)
    assert task.failure is None


def test_the_last_words_of_a_run_are_the_error_of_its_last_attempt(tmp_path):
    task = make_task(tmp_path)
    assert task.last_words() == "it printed nothing"
    task.log.parent.mkdir(parents=True)
    task.log.write_text("a\nXlaRuntimeError: RESOURCE_EXHAUSTED: out of 5 GB\nTraceback\nend\n")
    assert "out of 5 GB" in task.last_words()
    task.log_start = task.log.stat().st_size
    assert task.last_words() == "it printed nothing"
    with task.log.open("a") as log:
        log.write("a\nerror: the batch is too large\nthe end\n")
    assert task.last_words() == "error: the batch is too large"
    task.log.write_text("a\nthe end\n\n")
    task.log_start = 0
    assert task.last_words() == "the end"


def test_the_source_of_the_arms_is_a_separate_run():
    experiment = load(str(Path(__file__).parents[2] / "experiments" / "transfer.py"))
    (task,) = first_tasks(experiment)
    starts = {arm.changes["init_from"] for arm in experiment.arms}
    assert starts == {"", f"{task.folder}@best"} and task.seed == 0
    assert task.config.data.classes == ("0", "1", "2", "3", "4")
    assert task.command[2:4] == ["cnn_jax.main", "--config=resnet20:digits"]


def test_fields_set_by_the_data_are_not_differences(tmp_path):
    (task, *_) = tasks(plan(SMALL), [0], tmp_path)
    task.folder.mkdir(parents=True)
    written = task.config.copy_and_resolve_references()
    written.data.num_classes = 5
    (task.folder / "config.json").write_text(written.to_json())
    assert task.misfits() == []
    written.data.train = "60%"
    (task.folder / "config.json").write_text(written.to_json())
    assert len(task.misfits()) == 1
