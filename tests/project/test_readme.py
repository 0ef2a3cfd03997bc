"""The README's commands, run as they are written, in a folder that has configs/ as a clone does."""

import itertools
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from cnn_jax.__main__ import COMMANDS
from commands import ROOT, process

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# What a command prints, by its name, by one of its flags, or by both.
PRINTED = {
    "--cost": "Fire 4",
    "--help": "--config",
    "main --list": "resnet1202",
    "sweep --list": "residual",
    "--print_config": "optim.",
    "--scorecard": "resnet50",
    "__main__": "visualize",
    "benchmark": "images/s",
    "export": "bytes;",
    "lectures": "wrong on the slide",
    "report": "resnet50",
    "summary": "parameters",
    "toy": "65 of 81 pixels",
    "sweep": "?",
    "visualize": ".png: ",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    """Returns every command of the bash blocks, with `a && b` as two."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    return [part.strip() for line in lines for part in line.split("&&")]


def as_module(words):
    """Returns [module, arguments...] of `python -m MODULE ...`, and of `cnn_jax COMMAND ...`."""
    if words[0] == "cnn_jax":
        known = words[1] in COMMANDS
        return [f"cnn_jax.{COMMANDS[words[1]].module}", *words[2:]] if known else ["cnn_jax.__main__", *words[1:]]
    assert words[:2] == ["python", "-m"], words
    return words[2:]


def name(module):
    """Returns the command that a module is: `experiments.sweep` and `cnn_jax.sweep` are one."""
    return module.split(".")[-1]


def shortened(module, *words):
    """Returns the arguments that the test runs: what takes hours is done up to its first step."""
    words = list(words)
    prepared = any(re.match(r"--config=[\w/.]+:(\w+)", word) for word in words)  # on data that may not be here
    if name(module) == "main" and prepared and "--help" not in words:
        words.append("--dry-run")
    if name(module) == "sweep" and not {"--list", "--cost"} & set(words):  # test_sweep.py has a small one
        words = [word for word in words if word != "--report"] + ["--dry-run"]
    if name(module) == "benchmark" and "--model" not in words:
        words.append("--seconds=0.05")
    if name(module) == "prepare_data" and not {"--from-tfrecord", "check"} & set(words):  # downloads nothing
        words.append("--check")
    return [module, *dict.fromkeys(words)]


def tier(command):
    """Returns the marker of a command: what only looks is tested with every commit, what trains or needs it nightly."""
    looks = {"--help", "--list", "--print_config", "--dry-run", "--check", "--model", "check", "--from-tfrecord"}
    words = command.split()
    line = words if words[0] == "pip" or words[:2] == ["python", "-c"] else shortened(*as_module(words))
    quick = looks & set(line) or words[0] == "pip" or "cnn_jax.summary" in words or words == ["cnn_jax", "--help"]
    return pytest.mark.slow if quick else pytest.mark.nightly


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all commands: later ones read what earlier ones wrote."""
    made = tmp_path_factory.mktemp("readme")
    for each in ("configs", "experiments"):
        (made / each).symlink_to(ROOT / each)
    return made


def refusal(command, module):
    """Returns what a command of the reader's own files or data says where these are not, or None."""
    if name(module) == "prepare_data":
        return "is not prepared"
    if "resnet50.safetensors" in command:
        return "no file 'resnet50.safe"
    return "faces" if "faces/new" in command else None


@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=tier(command), id=command) for command in commands() if command != "pytest"]
)
def test_command_does_what_it_says(command, folder):
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:  # the test runs inside what it installs
        assert words[2] == "-e" and re.fullmatch(r"\.(\[\w+\])?", words[3])
        assert words[3] == "." or words[3][2:-1] in EXTRAS
        return
    if words[:2] == ["python", "-c"]:
        result = process(*words[1:], cwd=folder)
        assert 0.70 < float(result.stdout) < 0.72 if "linear" in command else (folder / "digit2.png").exists(), result
        return
    module, *words = shortened(*as_module(words))
    if name(module) == "prepare_data":
        words.append(f"--dir={folder}")  # where there is nothing
    files = [
        sorted(path.name if "/" not in word else str(path.relative_to(folder)) for path in folder.glob(word))
        if "*" in word
        else [word]
        for word in words
    ]
    result = process("-m", module, *itertools.chain.from_iterable(files), cwd=folder, timeout=900)
    said = f"{result.stdout}\n{result.stderr}"
    keys = (*(f"{name(module)} {word}" for word in words), *words, name(module))
    if message := refusal(command, module):
        assert (result.returncode, message in result.stderr) == (2, True), said
        return
    data_set = re.search(r"--config=[\w/.]+:(\w+)", command)
    if data_set and result.returncode == 2:
        missing = "there is no such folder" if data_set[1] == "folder" else f"{data_set[1]!r} is not prepared"
        assert missing in result.stderr, said
        return
    assert result.returncode == 0, said
    if name(module) == "predict":
        shown = "84 features of 3 pictures" if "--features" in words else f"```text\n{result.stdout}```"
        assert shown in (result.stdout if "--features" in words else README), said
    elif known := [PRINTED[key] for key in keys if key in PRINTED]:
        assert known[0] in result.stdout, said
    elif "--dry-run" not in words:
        accuracy = float(re.search(r"^(?:test|ensemble) +[\d,]+ +([\d.]+)%", result.stdout, re.M)[1])
        assert accuracy >= (90 if "--regime=head" in command else 97 if "lenet5" in command else 95), said


@pytest.mark.slow
def test_the_python_examples_print_what_stands_below_them():
    examples = re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", README, re.M | re.S)
    assert len(examples) == len(blocks("python")) > 0
    for code, output in examples:
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.stdout == output, result.stderr


def test_files_and_pictures_that_the_readme_points_to_are_there():
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.M) if heading else [""]
        assert heading in [text.lower().replace(" ", "-") for text in headings], link
