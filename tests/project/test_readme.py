"""The README's commands, run as they are written, in a folder that has configs/ as a clone does."""

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import cnn_jax
from cnn_jax import models
from cnn_jax.__main__ import COMMANDS
from cnn_jax.analysis.layer_table import layer_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    """Every command of the bash blocks, with `a && b` as two."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    return [part.strip() for line in lines for part in line.split("&&")]


TOLD = {
    "__main__": "visualize",
    "benchmark": "images/s",
    "summary": "parameters",
    "report": "resnet50",
    "visualize": ".png: ",
    "export": "bytes;",
    "predict": "84 features of 3 pictures",
    "sweep": "?",
    "experiments.sweep": "?",
}

SHOWN = {"--help": "--config", "--list": "resnet1202", "--print_config": "optim."}


def as_module(words, command):
    """Returns (module, arguments...) of `python -m MODULE ...`, and of `cnn_jax COMMAND ...`."""
    if words[0] == "cnn_jax":
        known = words[1] in COMMANDS
        return [f"cnn_jax.{COMMANDS[words[1]].module}", *words[2:]] if known else ["cnn_jax.__main__", *words[1:]]
    assert words[:2] == ["python", "-m"], command
    return words[2:]


def test_every_command_does_what_it_says(tmp_path):
    for folder in ("configs", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = 0
    for command in commands():
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:  # the test runs inside what it installs: check that the extra exists
            assert words[2] == "-e" and re.fullmatch(r"\.(\[\w+\])?", words[3]), command
            assert words[3] == "." or words[3][2:-1] in project["optional-dependencies"], command
            continue
        if words == ["pytest"]:
            continue  # this is it
        if words[:2] == ["python", "-c"]:
            line = [sys.executable, *words[1:]]
            result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
            done = 0.70 < float(result.stdout) < 0.72 if "linear" in command else (tmp_path / "digit2.png").exists()
            assert done, f"{command}\n{result.stdout}\n{result.stderr}"
            continue
        words = as_module(words, command)
        module = words[0].removeprefix("cnn_jax.")
        if module == "prepare_data":  # where there is nothing, and without a download
            words += [f"--dir={tmp_path}"]
            if "--from-tfrecord" not in words and "check" not in words:
                words += ["--check"]
            result = subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True)
            assert (result.returncode, "is not prepared" in result.stderr) == (2, True), f"{command}\n{result.stderr}"
            continue
        # A sweep takes minutes; tests/sweeping/test_sweep.py has a small one.
        if module in ("sweep", "experiments.sweep") and not {"--list", "--cost"} & set(words):
            words = [word for word in words if word != "--report"] + ["--dry-run"]
        data_set = re.search(r"--config=[\w/.]+:(\w+)", command) if module in ("main", "benchmark") else None
        if (
            data_set and module == "main" and "--help" not in words
        ):  # hours of training, on data that may not be here: up to the first step
            words.append("--dry-run")
        if module == "benchmark" and "--model" not in words:
            words.append("--seconds=0.05")
        expanded = [
            sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(word)) if "*" in word else [word]
            for word in words
        ]
        line = [sys.executable, "-m", *itertools.chain.from_iterable(expanded)]
        result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        ran += 1
        if data_set and result.returncode == 2:
            missing = "there is no such folder" if data_set[1] == "folder" else f"{data_set[1]!r} is not prepared"
            assert missing in result.stderr, command
            continue
        if "resnet50.safetensors" in command:  # a file of the reader's
            assert (result.returncode, "no file 'resnet50.safe" in result.stderr) == (2, True), result.stderr
            continue
        if "faces/new" in command:  # pictures that are not here, nor a run on them
            assert (result.returncode, "faces" in result.stderr) == (2, True), f"{command}\n{result.stderr}"
            continue
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        if module == "predict" and "--features" not in words:
            assert f"```text\n{result.stdout}```" in README, result.stdout
            continue
        shown = SHOWN.keys() & set(words)
        if module not in ("main", "finetune", "evaluate"):
            assert ("Fire 4" if "--cost" in words else TOLD[module]) in result.stdout, command
        elif shown:
            assert SHOWN[shown.pop()] in result.stdout, command
        elif "--dry-run" not in words:
            accuracy = float(re.search(r"^(?:test|ensemble) +[\d,]+ +([\d.]+)%", result.stdout, re.M)[1])
            least = 90 if "--regime=head" in command else 97 if "lenet5" in command else 95
            assert accuracy >= least, f"{command}: {accuracy}%"
    assert ran >= 8


def test_the_python_examples_print_what_stands_below_them():
    examples = re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", README, re.M | re.S)
    assert len(examples) == len(blocks("python")) > 0
    for code, output in examples:
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.stdout == output, result.stderr


def test_the_table_of_networks_is_complete_and_true():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\dx]+) \|", README, re.M)
    assert {name for name, *_ in rows} == set(models.MODELS) - {"cifar_resnet"}
    for name, parameters, macs, image in rows:
        if name == "resnet1202":
            continue  # its numbers are held with the other networks'; tracing it takes 10 s
        shape = tuple(map(int, image.split("x")))
        layers = layer_table(lambda name=name, shape=shape: cnn_jax.create(name, input_shape=shape), shape)
        assert sum(layer.parameters for layer in layers) == int(parameters.replace(",", "")), name
        assert sum(layer.macs for layer in layers) == int(macs.replace(",", "")), name


def test_files_and_pictures_that_the_readme_points_to_are_there():
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.M) if heading else [""]
        assert heading in [text.lower().replace(" ", "-") for text in headings], link
