"""The command finetune: chained runs, what it sets, and mistakes."""

import json

import pytest

from cnn_jax import main

SMALL = ("--config.duration=2 steps", "--config.log.trackers=")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A LeNet-5 of a quarter of the width that has seen 8 steps of digits."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    options = ("--config.model.width=0.25", "--config.optim.schedule.warmup=0 steps", "--config.duration=8 steps")
    assert main.main(["--config=lenet5", f"--workdir={folder}", *SMALL[1:], *options]) == 0
    return folder


@pytest.mark.slow
def test_chained_runs_train_the_head_then_everything(call, source, tmp_path):
    head = call("finetune", source, "--regime=head", f"--workdir={tmp_path}/1", *SMALL).out
    assert "config.model.width = 0.25" in head and f"config.init_from = '{source}@8'" in head
    assert "frozen    conv1, conv2" in head
    config = json.loads((tmp_path / "1" / "config.json").read_text())
    assert (config["init_from"], config["trainable"], config["model"]["width"]) == (f"{source}@8", "head", 0.25)
    given = json.loads((tmp_path / "1" / "run.json").read_text())["starts"][0]["arguments"]
    assert given == [f"--checkpoint={source}", "--regime=head", *SMALL]
    everything = call("finetune", f"{tmp_path}/1@best", "--data=digits", f"--workdir={tmp_path}/2", *SMALL).out
    assert "frozen" not in everything
    call("main", f"--from={tmp_path}/2", f"--workdir={tmp_path}/3")  # what is stored is enough
    tests = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1] for name in "23"]
    assert tests[0] == tests[1]


def test_pseudo_configuration_makes_the_same_run(call, source, tmp_path):
    old = ("--config=configs/finetune.py:lenet5,digits,partial:1", f"--checkpoint={source}@best")
    new = (f"{source}@best", "--data=digits", "--regime=partial:1")
    options = ("--config.take=frozen", f"--workdir={tmp_path}/x", "--dry-run")
    assert call("finetune", *new, *options).out == call("finetune", *old, *options).out


@pytest.mark.parametrize(
    "words",
    [
        ("{source}", "--regime=head"),
        ("--config=configs/finetune.py:lenet5,digits,head", "--checkpoint={source}"),
    ],
)
def test_printed_configuration_is_that_of_the_run(call, source, words):
    printed = call("finetune", *(word.format(source=source) for word in words), "--print_config").out
    lines = dict(line.split(" = ") for line in printed.splitlines())
    found = {name.strip(): value for name, value in lines.items()}
    assert (found["model.width"], found["trainable"], found["init_from"]) == ("0.25", "'head'", f"'{source}@8'")


def test_dry_run_says_what_is_taken_and_writes_nothing(call, source, tmp_path):
    printed = call(
        *("finetune", f"{source}@best", "--regime=partial:1", f"--workdir={tmp_path}/x"),
        *("--config.data.classes=('1','7')", "--config.take=frozen", "--dry-run"),
    )
    assert "  taken   conv1\n" in printed.out
    assert "  new     conv2, head: config.take is 'frozen'" in printed.out
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the pretrained network to start from, once: cnn_jax finetune SOURCE"),
        (("{source}", "--checkpoint={source}"), "name the pretrained network to start from, once"),
        (("nowhere",), "'nowhere'"),
        (("{source}@7",), "is '7', but must be latest, best or one of the steps 8"),
        (("{source}", "--config.data.classes=('1','ten')"), "is 'ten', but must be one of 0, 1"),
        (("{source}", "--config.model.width=0.5"), "does not fit this network, "),
        (("nowhere", "--config.optm.momentum=0.5"), "did you mean 'optim.momentum'"),
        (("{source}", "--config.model.wdth=0.5"), "did you mean 'model.width'"),
        (("nowhere", "--data=a b"), "--data: a data set is called NAME"),
        (("{source}", "--regime=heads"), "config.trainable"),
        (
            ("{source}", "--config=configs/finetune.py:lenet5,digits", "--regime=head"),
            "--regime goes without --config and --from",
        ),
        (
            ("--config=configs/finetune.py:mlp,digits", "--checkpoint={source}"),
            "is a lenet5, but the configuration is of mlp",
        ),
        (
            ("--config=configs/finetune.py:lenet,digits", "--checkpoint={source}"),
            "the recipe is 'lenet', but must be one of",
        ),
    ],
)
def test_mistake_gets_one_message(call, source, arguments, message):
    error = call("finetune", *(argument.format(source=source) for argument in arguments), "--dry-run", code=2).err
    assert message in error and error.startswith("error: ") and "Traceback" not in error
