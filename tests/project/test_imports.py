"""The tree is the diagram: a room of cnn_jax imports itself and the rooms before it, a command imports rooms."""

import ast
from pathlib import Path

import pytest

import cnn_jax

ROOT = Path(cnn_jax.__file__).parent

ROOMS = (
    "core",
    "kernels",
    "nn",
    "models",
    "config",
    "data",
    "parallel",
    "tracking",
    "display",
    "analysis",
    "checkpoint",
    "pretrained",
    "eval",
    "training",
    "ahead_of_time",
    "benchmarking",
    "reporting",
    "visualization",
    "sweeping",
)
# Rooms of the commands: they import no other of these, but for sweeping, which reads finished runs as reporting does.
LAST = ("benchmarking", "reporting", "visualization")
# Frameworks that the package does without: torch is imported inside functions, TensorFlow prepares data sets elsewhere.
TORCH = {"state_dicts", "baselines", "torch_twins", "torch_data"}


def name_of(path: Path) -> str:
    """Returns `data.augment` for data/augment.py, `data` for data/__init__.py, `` for the package itself."""
    return ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Returns the dotted names that `source` imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(source: str) -> set[str]:
    """Returns the first name below cnn_jax of everything that `source` imports."""
    return {name.split(".")[1] for name in imports(source) if name.startswith("cnn_jax.")}


@pytest.mark.parametrize("module", [name for name in FILES if (ROOT / name.split(".")[0]).is_dir() and name])
def test_a_room_imports_only_rooms_before_it(module):
    own = module.split(".")[0]
    others = set(LAST) - {own} - ({"reporting"} if own == "sweeping" else set())
    allowed = {own, *ROOMS[: ROOMS.index(own)]} - others
    assert rooms(FILES[module].read_text(encoding="utf-8")) & set(ROOMS) <= allowed


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_tests_experiments_or_another_framework(module):
    found = {name.split(".")[0] for name in imports(FILES[module].read_text(encoding="utf-8"))}
    torch = set() if module.split(".")[-1] in TORCH else {"torch"}
    assert not found & {"tests", "experiments", "tensorflow", *torch}


@pytest.mark.parametrize("module", sorted(TORCH))
def test_torch_is_imported_inside_functions_only(module):
    path = next(path for name, path in FILES.items() if name.split(".")[-1] == module)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    outside = [ast.unparse(node) for node in body if not isinstance(node, ast.FunctionDef)]
    assert "torch" not in {name.split(".")[0] for source in outside for name in imports(source)}


def test_every_way_to_import_is_seen():
    source = """
import cnn_jax.core.trees, os.path as path
from cnn_jax import models, create
from cnn_jax.data import augment as a
def later():
    import torch.nn
    if True:
        from cnn_jax.nn.layers import Conv
"""
    assert rooms(source) == {"core", "models", "create", "data", "nn"}
    assert {"os.path", "torch.nn"} <= imports(source)
