import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cnn_jax.display import terminal
from cnn_jax.training import header
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


def test_the_header_names_what_differs_from_the_paper(small_config, console, tmp_path):
    setup = build(small_config)
    header.print_header(setup, States(setup), tmp_path, tmp_path, console)
    printed = console.file.getvalue()
    assert "width=0.25" in printed and "activation" not in printed
    assert str(tmp_path) in printed


def test_a_gpu_that_is_not_used_gets_a_plain_warning(small_config, console, tmp_path, monkeypatch):
    run = build(small_config)
    monkeypatch.setattr(header, "has_unused_gpu", lambda: True)
    header.print_header(run, States(run), tmp_path, tmp_path, console)
    assert "warning: this machine has an NVIDIA GPU" in console.file.getvalue()
    assert "pip install 'cnn-jax[cuda]'" in console.file.getvalue()


def test_without_a_terminal_progress_is_an_occasional_line(console, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    line = terminal.ProgressLine(console, first_step=100, total_steps=300, steps_per_epoch=100)
    metrics = dict(loss=0.5, error=0.25, images_per_second=1234.5)
    for done, seconds in ((110, 10), (120, 20), (150, 50), (160, 60)):
        now[0] = seconds
        line.advance(done)
        line.numbers(done, metrics)
    (printed,) = console.file.getvalue().splitlines()
    assert printed == "epoch 1.5/3  loss 0.500, accuracy 75.0%, 1,234 images/s, 0:02:30 left"


def test_durations_read_like_a_clock():
    assert terminal.duration(0.4) == "0:00:00"
    assert terminal.duration(3 * 3600 + 25 * 60 + 7.6) == "3:25:08"


def test_saturation_and_lack_of_memory_are_reported(small_config, console, monkeypatch):
    small_config.model.activation = "sigmoid"
    monkeypatch.setattr(header, "host_memory", lambda: 1000)
    run = build(small_config)
    header.print_header(run, States(run), "runs/x", Path("runs/x"), console)
    text = console.file.getvalue()
    assert "note: sigmoid saturates" in text and "warning: this machine has 1 kB of memory" in text


def test_facts_fit_a_terminal_and_stay_one_line_in_a_pipe():
    text = " ".join(f"word{i}" for i in range(40))
    terminal_file, pipe = io.StringIO(), io.StringIO()
    terminal.facts(Console(file=terminal_file, width=100, force_terminal=True, color_system=None), [("data", text)])
    terminal.facts(Console(file=pipe, width=100), [("data", text)])
    assert pipe.getvalue() == f"data      {text}\n"
    lines = terminal_file.getvalue().splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 100
    assert [line[:10].strip() for line in lines] == ["data", "", ""]
    assert " ".join(line[10:] for line in lines) == text


def test_the_progress_bar_of_a_long_run_fits_100_columns():
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, color_system=None)
    line = terminal.ProgressLine(console, first_step=0, total_steps=64000, steps_per_epoch=351.5625)
    line.start()
    line.advance(63999)
    line.numbers(63999, dict(loss=12.3456, error=0.0001, images_per_second=12345.6))
    line.bar.refresh()
    line.stop()
    shown = [
        part.rstrip() for part in re.split(r"\x1b\[[^A-Za-z]*[A-Za-z]|[\r\n]", file.getvalue()) if "images/s" in part
    ]
    assert shown and max(map(len, shown)) <= 100


@pytest.mark.parametrize(("balanced", "shown"), [(0.5, True), (0.745, False)])
def test_a_balanced_accuracy_that_differs_is_shown(balanced, shown):
    metrics = dict(error=0.25, top5_error=0.0, loss=1.0, examples=8, protocol="single", balanced_accuracy=balanced)
    console = Console(file=io.StringIO(), width=120)
    terminal.print_results({"test": metrics}, console)
    text = console.file.getvalue()
    assert ("balanced accuracy" in text, f"{balanced:.2%}" in text) == (shown, shown)
