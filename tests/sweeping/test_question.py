import re
import shlex
from pathlib import Path

import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.sweeping.question import ARM, Arm, Experiment, experiments, grid, load, name_in_group, without

SMALL = str(Path(__file__).parents[1] / "helpers" / "small_experiment.py")


def test_a_grid_has_an_arm_for_each_combination_named_by_it():
    arms = grid(
        "configs/a.py", {"model.depth": (20, 32), "model.residual": (True, False)}, fixed={"seed": 1}, label="x"
    )
    assert [arm.name for arm in arms] == [
        "x depth=20 residual=True",
        "x depth=20 residual=False",
        "x depth=32 residual=True",
        "x depth=32 residual=False",
    ]
    assert arms[1].changes == {"model.depth": 20, "model.residual": False, "seed": 1}
    assert arms[1].folder == "x_depth=20_residual=False"


def test_the_command_of_an_arm_is_one_that_a_shell_reads_back():
    arm = Arm("a", "configs/a.py:mnist", {"duration": "5 epochs", "data.image_size": (8, 8), "model.pool": "max"})
    assert shlex.split(arm.command(3)) == [
        *("cnn_jax", "train", "--config=configs/a.py:mnist", "--config.duration=5 epochs"),
        *("--config.data.image_size=(8, 8)", "--config.model.pool=max", "--config.seed=3"),
    ]


def test_arms_that_differ_in_one_field_make_a_group():
    arms = grid("configs/a.py", {"model.depth": (20, 32), "model.residual": (True, False)})
    experiment = Experiment(
        arms=(*arms, *grid("configs/b.py", {"model.residual": (True, False)})),
        compare=("model.residual", "model.depth"),
    )
    groups = experiment.groups("model.residual")
    assert [[arm.changes["model.residual"] for arm in group] for group in groups] == [[True, False]] * 3
    assert [without(group[0], "model.residual") for group in groups] == ["depth=20", "depth=32", ""]
    depths = [[arm.changes["model.depth"] for arm in group] for group in experiment.groups("model.depth")[:2]]
    assert depths == [[20, 32], [20, 32]]
    pairs = [(field, one.name, other.name) for field, one, other in experiment.pairs()]
    assert len(pairs) == 5
    assert pairs[0] == ("model.residual", "depth=20 residual=True", "depth=20 residual=False")
    assert pairs[3] == ("model.depth", "depth=20 residual=True", "depth=32 residual=True")


def test_whole_networks_of_one_recipe_make_a_group():
    arms = [
        Arm(f"{name}, {recipe}", f"configs/{name}.py", {"duration": f"{i} epochs"}, recipe=recipe)
        for i, recipe in enumerate(("short", "long"))
        for name in ("a", "b", "c")
    ]
    experiment = Experiment(arms=tuple(arms), compare=(ARM,))
    assert [[arm.name[0] for arm in group] for group in experiment.groups(ARM)] == [["a", "b", "c"]] * 2
    assert [without(group[0], ARM) for group in experiment.groups(ARM)] == ["short", "long"]
    assert [(name_in_group(one, ARM), name_in_group(other, ARM)) for _, one, other in experiment.pairs()] == [
        ("a", "b"),
        ("a", "c"),
    ] * 2


def test_values_with_spaces_are_named_without_them():
    arms = grid("configs/a.py", {"model.fc_sizes": ((1, 2), (3,)), "duration": ("5 epochs",)})
    assert arms[0].name == "fc_sizes=(1,2) duration=5epochs"
    assert without(arms[0], "model.fc_sizes") == "duration=5epochs"
    assert without(arms[0], "duration") == "fc_sizes=(1,2)"


def test_load_reads_the_docstring_the_data_set_and_full():
    plain, full, other = load(SMALL), load(f"{SMALL}:full"), load(f"{SMALL}:mnist:full")
    assert plain.question == "Is wide better than narrow?" and "as everybody knows" in plain.text
    assert [plain.name, full.name, other.name] == [
        "small_experiment",
        "small_experiment-full",
        "small_experiment-mnist-full",
    ]
    assert other.arms[0].config == "configs/mlp.py:mnist" and "layers" in full.figures


START = "from cnn_jax.sweeping.question import *\ndef get_experiment(dataset='d', full=False):\n    "

TWO = "grid('c', {'a': (1, 2)}), ('a',)"


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("", "nowhere.py", "there is no experiment"),
        ("x = 1", "a.py", "has no function get_experiment"),
        (START + "raise ValueError('no data set is called x')", "a.py:x", "a.py, line 3: no data set is called x"),
        (START + "...", "a.py:x:y", "more than one data set: x, y"),
        ("def get_experiment(", "a.py", "a.py, line 1: "),
        (START + "return 3", "a.py", "must return an Experiment"),
        (START + "return Experiment(grid('c', {'a': (1, 1)}), ('a',))", "a.py", "two arms are called 'a=1'"),
        (START + "return Experiment(grid('c', {'wide': (1, 2)}), ('wiide',))", "a.py", "did you mean 'wide'"),
        (START + "return Experiment(grid('c', {'a': (1,)}), ('a',))", "a.py", "no two arms differ"),
        (
            START + f"return Experiment({TWO}, figures=('bars',))",
            "a.py",
            "figures has 'bars'",
        ),
        (
            START + f"return Experiment({TWO}, equal=('color',))",
            "a.py",
            "equal has 'color'",
        ),
    ],
)
def test_an_invalid_experiment_is_one_message(tmp_path, text, spec, message):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / spec))


def test_every_experiment_of_the_project_loads_small_and_full():
    found = experiments()
    assert {path.stem for path in found} >= {"residual", "heads", "bottlenecks"}
    for path in found:
        for spec in (path, f"{path}:full", f"{path}:cifar10:full"):
            experiment = load(str(spec))
            assert experiment.seeds == 5 and experiment.question.endswith("?")
            for field in experiment.compare:
                assert any(len(group) > 1 for group in experiment.groups(field))
            assert re.search(
                r"[A-Z]\w+ (et al\.|and [A-Z]\w+) (19|20)\d\d", " ".join(experiment.text.split())
            )  # a source
