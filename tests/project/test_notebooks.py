"""The notebooks run top to bottom, as Jupyter runs them, and draw their pictures."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
PICTURES = {"ablation": 3, "convolution": 7, "lenet_to_resnet": 4, "transfer": 3}


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PICTURES)


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
@pytest.mark.parametrize("name", PICTURES)
def test_notebook_runs_and_draws_its_pictures(name, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext", reason="needs the extra [notebooks]")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra [notebooks]")
    pytest.importorskip("ipykernel", reason="needs the extra [notebooks]")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # they train: programs are compiled to be fast
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = jupytext.read(FOLDER / f"{name}.py")
    where = {"metadata": {"path": str(tmp_path)}}  # no folder `photos` is there
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr" and "arning" in output.text]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
