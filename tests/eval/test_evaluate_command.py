"""The command evaluate with any SOURCE: the same for runs, bundled networks and files."""

import json

import pytest

from cnn_jax.config import recipes
from cnn_jax.training import loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = recipes.get_config("lenet5")
    changes = {
        "duration": "12 steps",
        "optim.schedule.warmup": "0 steps",
        "model.width": 0.25,
        "log.trackers": "",
    }
    config.update_from_flattened_dict(changes)
    folder = tmp_path_factory.mktemp("run") / "run"
    loop.run(config, folder)
    return folder


def test_a_bundled_network_on_a_data_set(call, tmp_path):
    out = call("evaluate", "bundled:lenet5-digits", "--data=digits", f"--json={tmp_path}/a.json").out
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["top1_accuracy"] == pytest.approx(356 / 359) and "99.16%" in out
    assert [row["examples"] for row in found["classes"]] == [29, 35, 34, 45, 37, 41, 33, 36, 31, 38]


@pytest.mark.slow
def test_a_run_and_its_data_set_by_name_give_the_same_numbers(call, run, tmp_path):
    plain = call("evaluate", str(run)).out
    own = call("evaluate", str(run), f"--json={tmp_path}/own.json", f"--output={tmp_path}/own").out
    assert own.startswith(plain) and "classes of the test part" in own
    call("evaluate", f"{run}@latest", "--data=digits", f"--json={tmp_path}/other.json")
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "other"))
    for name in ("network", "data", "protocol", "examples", "top1_accuracy", "top5_accuracy", "classes"):
        assert first[name] == second[name]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["calibration"]["temperature"] == pytest.approx(second["calibration"]["temperature"], rel=1e-3)
    assert (tmp_path / "own" / "errors.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bundled:lenet5-digits"], "is not a run, which has data of its own: name some, --data="),
        (["a", "b", "--data=digits"], "--data evaluates one network"),
        (["bundled:lenet5-digits", "--data=digits", "--config=lenet5"], "--data goes without --config"),
        (["bundled:lenet5-digits", "--data=xo"], "tells 10 classes apart"),
        (["bundled:lenet5-digits", "--data=digits", "--part=tset"], "part is 'tset'"),
        (["runs/a", "--part=test"], "--part goes with --data"),
        (["runs/a", "--json=nowhere/a.json"], "there is no folder 'nowhere'"),
        (["bundled:lenet5-digits", "--data=digits", "--config.eval.protocl=flip"], "did you mean"),
        (["bundled:lenet5-digits", "--data=digits", "--output=README.md"], "is a file: name a folder"),
    ],
)
def test_mistakes_are_one_message(refused, words, message):
    assert message in refused("evaluate", *words)
