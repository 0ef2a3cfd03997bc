"""Every command as a process: its help, its exit codes, and what it imports."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cnn_jax import __version__
from cnn_jax.__main__ import COMMANDS
from commands import process

HEAVY = {"jax", "flax", "orbax", "matplotlib", "tensorflow_datasets", "sklearn"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_mistake_of_every_command(name):
    module = f"cnn_jax.{COMMANDS[name].module}"
    done = process("-X", "importtime", "-m", module, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: cnn_jax {name}")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert module.partition(".")[0] in imported and not HEAVY & imported
    for absl in ("--pdb", "--verbosity", "--only_check_args", "--helpfull"):
        assert absl not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    mistake = process("-m", module, "--no-such-flag")
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert re.fullmatch(r"error: there is no flag --no-such-flag.*\n", mistake.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_console_command_is_the_module(name, call):
    assert call("__main__", name, "--help").out == call(COMMANDS[name].module, "--help").out


@pytest.mark.parametrize("words", [("--help",), ("-h",)])
def test_overview_has_a_line_for_each_command(call, words):
    printed = call("__main__", *words).out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.line)}$", printed, re.M)


def test_version_and_mistyped_command(call, refused):
    assert call("__main__", "--version").out == f"cnn_jax {__version__}\n"
    assert "there is no command 'trian'; did you mean 'train'?" in refused("__main__", "trian")


def test_no_arguments_show_six_things_to_try(call):
    lines = call("__main__").out.splitlines()
    assert sum(line.startswith("  cnn_jax ") for line in lines) == 6
    assert max(map(len, lines)) <= 100


def test_overview_imports_no_jax():
    done = process("-X", "importtime", "-m", "cnn_jax")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and not (HEAVY | {"absl", "ml_collections", "numpy"}) & imported


def test_all_commands_can_be_imported_together():
    modules = ", ".join(f"cnn_jax.{command.module}" for command in COMMANDS.values())
    script = f"import sys, {modules}; assert not {HEAVY} & set(sys.modules)"
    assert process("-c", script).returncode == 0


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("cnn_jax", "su"), "summary"),
        (("cnn_jax", "report", "--sco"), "--scorecard"),
        (("cnn_jax", "train", "--config", "=", "resnet10"), "resnet101"),
        (("cnn_jax", "train", "--config", "="), "lenet5"),
    ],
)
def test_bash_completes(call, tmp_path, typed, found):
    script = tmp_path / "completion.bash"
    script.write_text(call("completion", "bash").out)
    words = " ".join(f"'{word}'" for word in typed)
    line = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _cnn_jax; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == "" and found in done.stdout.split()


def test_completion_refuses_another_shell(call, refused):
    assert "did you mean 'zsh'?" in refused("completion", "zhs") and "name the shell" in refused("completion")
    assert call("completion", "zsh").out.startswith("autoload -U +X bashcompinit")


# ---------------------------------------------------------------- how a command ends


def test_a_closed_pipe_ends_with_141_and_no_message():
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "cnn_jax.benchmark", "--help"]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_ends_with_130_and_one_word():
    # A command that has imported jax, and works.
    script = (
        "import jax, sys, time; from cnn_jax import export; from cnn_jax.pretrained import exporting\n"
        "exporting.write = lambda *_, **__: (print('began', flush=True), time.sleep(60))\n"
        "sys.exit(export.main(['--checkpoint=x', '--output=y.safetensors']))"
    )
    line = [sys.executable, "-c", script]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "began\n"
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert (running.returncode, error) == (130, "\ninterrupted\n") and time.monotonic() - began < 30
