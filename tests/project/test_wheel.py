"""The wheel in a separate folder: everything works without the clone."""

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnn_jax import __version__
from cnn_jax.config import recipes
from cnn_jax.sweeping import question

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []  # else pip fetches it
    line = ["pip", "wheel", "--quiet", "--no-deps", *here, "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", *line], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a command of the installed wheel in an otherwise empty folder, and returns what it prints."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    line = ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *line], check=True, capture_output=True)
    (folder / "configs").mkdir()
    (folder / "configs" / "__init__.py").write_text("raise ImportError('of the user')")
    Image.fromarray(np.uint8(load_digits().images[13] * 255 / 16)).save(folder / "three.png")

    def command(*words):
        program = [sys.executable, "-P", str(site / "bin" / "cnn_jax"), *words]
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


@pytest.mark.slow
def test_wheel_has_one_package_with_recipes_and_questions(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"cnn_jax", f"cnn_jax-{__version__}.dist-info"}
    assert {"cnn_jax/py.typed", "cnn_jax/kernels/kernels.cc"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    for folder, known in (("recipes", recipes.names()), ("questions", [path.stem for path in question.experiments()])):
        found = {Path(name).stem for name in names if name.startswith(f"cnn_jax/{folder}/")}
        assert found == set(known)


@pytest.mark.slow
def test_installed_commands_work_in_an_empty_folder(run):
    assert run("--version") == f"cnn_jax {__version__}\n"
    assert "resnet50 " in run("train", "--list") and "residual" in run("sweep", "--list")
    small = ("--config.duration=4 steps", "--config.optim.schedule.warmup=0 steps", "--config.log.trackers=")
    trained = run("train", "--config=lenet5", "--config.model.width=0.25", *small, "--workdir=run")
    assert "top-1 accuracy" in trained
    assert "61,706" in run("summary", "--config=lenet5")
    assert "\nthree.png  3  " in run("predict", "three.png", "--checkpoint=bundled:lenet5-digits", "--top=1")
    assert "--config=alexnet:digits" in run("sweep", "heads", "--dry-run", "--only=alexnet head=gap dropout=0.0")


def test_every_question_is_in_the_wheel():
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    questions = {path: Path(path).stem for path in carried if path.startswith("experiments/")}
    assert {path.stem for path in question.experiments()} == set(questions.values())
    assert all(carried[path] == f"cnn_jax/questions/{name}.py" for path, name in questions.items())
