import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax
from cnn_jax.core import compilation_cache
compilation_cache.enable()
print(jax.config.jax_compilation_cache_dir)
print(float(jax.jit(lambda x: x * 3)(2.0)))
"""


def run(**variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu"} | {name: str(value) for name, value in variables.items()}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    place, result = done.stdout.split()
    assert result == "6.0"
    return place, done.stderr


def programs(folder):
    return list(folder.rglob("*-cache"))


@pytest.mark.slow
def test_programs_are_kept_in_the_cache_of_the_user(tmp_path):
    place, err = run(XDG_CACHE_HOME=tmp_path)
    assert place.startswith(f"{tmp_path}/cnn_jax/") and not err
    assert programs(tmp_path / "cnn_jax")


@pytest.mark.slow
def test_jaxs_variables_for_folder_and_switch_are_respected(tmp_path):
    home = tmp_path / "home"
    assert run(XDG_CACHE_HOME=home, JAX_COMPILATION_CACHE_DIR=tmp_path / "other")[0] == str(tmp_path / "other")
    assert not home.exists()
    run(XDG_CACHE_HOME=home, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not programs(home)


@pytest.mark.slow
def test_a_place_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    place, err = run(XDG_CACHE_HOME=tmp_path / "file")
    assert place == "None"
    assert err.startswith("warning: compiled programs are not kept: ") and "JAX_COMPILATION_CACHE_DIR" in err
