import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--config.duration=2 steps", "--config.log.tensorboard=False")


def command(*arguments, module="cnn_jax.finetune"):
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A LeNet-5 of a quarter of the width that has seen 8 steps of digits."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    options = ("--config.model.width=0.25", "--config.optim.schedule.warmup=0 steps", "--config.duration=8 steps")
    result = command("--config=configs/lenet5.py", f"--workdir={folder}", *SMALL[1:], *options, module="cnn_jax.main")
    assert result.returncode == 0, result.stderr
    return folder


def test_two_chained_runs_train_the_head_first_then_everything(source, tmp_path):
    head = command(
        "--config=configs/finetune.py:lenet5,digits,head", f"--checkpoint={source}", f"--workdir={tmp_path}/1", *SMALL
    )
    assert head.returncode == 0, head.stderr
    assert "config.model.width = 0.25" in head.stdout and f"config.init_from = '{source}@8'" in head.stdout
    assert "frozen    conv1, conv2" in head.stdout
    config = json.loads((tmp_path / "1" / "config.json").read_text())
    assert (config["init_from"], config["trainable"], config["model"]["width"]) == (f"{source}@8", "head", 0.25)
    everything = command(
        "--config=configs/finetune.py:lenet5,digits",
        f"--checkpoint={tmp_path}/1@best",
        f"--workdir={tmp_path}/2",
        *SMALL,
    )
    assert everything.returncode == 0, everything.stderr
    assert "frozen" not in everything.stdout
    again = command(  # what is stored is enough
        f"--config=configs/replay.py:{tmp_path}/2/config.json", f"--workdir={tmp_path}/3", module="cnn_jax.main"
    )
    assert again.returncode == 0, again.stderr
    tests = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1] for name in "23"]
    assert tests[0] == tests[1]


def test_a_dry_run_says_what_is_taken_and_writes_nothing(source, tmp_path):
    result = command(
        "--config=configs/finetune.py:lenet5,digits,partial:1",
        f"--checkpoint={source}@best",
        f"--workdir={tmp_path}/x",
        "--config.data.classes=('1','7')",
        "--config.take=frozen",
        "--dry-run",
    )
    assert result.returncode == 0, result.stderr
    assert "  taken   conv1\n" in result.stdout
    assert "  new     conv2, head: config.take is 'frozen'" in result.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the trained network to start from, once: --checkpoint=SOURCE"),
        (("--checkpoint=nowhere",), "'nowhere'"),
        (("--checkpoint={source}@7",), "is '7', but must be latest, best or one of the steps 8"),
        (("--checkpoint={source}", "--config.data.classes=('1','ten')"), "is 'ten', but must be one of 0, 1"),
        (("--checkpoint={source}", "--config.model.width=0.5"), "does not fit this network, "),
        (
            ("--config=configs/finetune.py:mlp,digits", "--checkpoint={source}"),
            "is a lenet5, but the configuration is of mlp",
        ),
        (("--config=configs/finetune.py:lenet,digits", "--checkpoint={source}"), "name a network that has a file"),
    ],
)
def test_a_mistake_gets_one_clear_message_and_exit_code_2(source, arguments, message):
    arguments = [argument.format(source=source) for argument in arguments]
    config = () if "--config=" in "".join(arguments[:1]) else ("--config=configs/finetune.py:lenet5,digits",)
    result = command(*config, *arguments, "--dry-run")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_help_imports_no_jax():
    script = "import sys, cnn_jax.finetune; assert not {'jax', 'flax', 'numpy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
