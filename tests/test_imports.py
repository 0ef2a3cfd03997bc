import ast
from pathlib import Path

import pytest

import cnn_jax

ROOT = Path(cnn_jax.__file__).parent

PARTS = ("models.base", "models.layers", "models.pooling")  # what networks are made of
# module -> the modules of cnn_jax that it may import. Arrows point to lines above only.
ALLOWED = {
    "errors": set(),
    "trees": {"errors"},
    # The networks. Families import no family, and nothing below imports a family: models.create() finds it by name.
    "models.cpu": set(),
    "models.base": {"errors"},
    "models.layers": {"errors", "models.cpu", "models.base"},
    "models.pooling": {"errors", "models.cpu", "models.base", "models.layers"},
    "models.network": {"errors", "trees", *PARTS},
    "models.lenet_1998": {"models.cpu", "models.base"},
    "models.lenet": {"errors", "models.lenet_1998", *PARTS, "models.network"},
    "models.repeated": {"models.base"},
    "models.resnet": {"errors", *PARTS, "models.network", "models.repeated"},
    "models.nin": {"errors", *PARTS, "models.network"},
    "models.googlenet": {"errors", *PARTS, "models.network"},
    "models.squeezenet": {"errors", *PARTS, "models.network"},
    "models.alexnet": {"errors", *PARTS, "models.network"},
    "models.vgg": {"errors", *PARTS, "models.network"},
    "models.mlp": {"errors", *PARTS, "models.network"},
    "models.dilated": {"errors", *PARTS, "models.network"},
    "models.conv3d": {"errors", *PARTS, "models.network"},
    "models.conv1d": {"errors", *PARTS, "models.network"},
    "models.toy": {"errors", *PARTS, "models.network"},
    "models.local": {"errors", *PARTS, "models.network"},
    "models.flattened": {"errors", *PARTS, "models.network"},
    "models": {"errors", "models.base"},
    "foreign_weights": {"errors", "trees"},
    "recognition": {"errors", "foreign_weights"},
    "state_dicts": {"errors"},
    "hub": {"errors", "recognition"},
    "data": set(),
    "data.augmentations": {"errors"},
    "protocols": {"errors"},
    "config": {"errors", "models", "protocols", "data.augmentations"},
    # From images to batches.
    "data.generated": {"errors"},
    "data.images": {"errors"},
    "data.dataset": {"errors"},
    "data.arrays": {"data.images"},
    "data.folder": {"errors", "config", "data.images", "data.dataset", "data.arrays"},
    "data.find": {"errors", "config", "data.images", "data.arrays", "data.folder"},
    "data.prepared": {"errors", "config", "data.images"},
    "data.tfrecord": {"errors", "data.prepared"},
    "data.tfds": {"errors", "data.images", "data.dataset", "data.prepared"},
    "data.sources": {
        *("errors", "config", "data.generated", "data.images"),
        *("data.dataset", "data.arrays", "data.folder", "data.tfds"),
    },
    "data.rand_augment": set(),
    "data.augment": {"errors", "data.augmentations", "data.images", "data.rand_augment"},
    "data.mixing": {"data.augmentations", "data.augment"},
    "data.workers": {"errors"},
    "data.pipeline": {"errors", "data.images", "data.dataset", "data.sources", "data.augment", "data.workers"},
    "data.views": {"errors", "data.augment", "data.pipeline"},
    # Several processes.
    "cluster": {"errors"},
    "distributed": {"errors", "cluster"},
    "together": {"errors"},
    # The step receives a network and imports none.
    "optim": {"errors", "trees"},
    "step": {"trees", "data.augment", "data.mixing", "optim"},
    "evaluate": {"errors", "data.pipeline", "data.views", "step", "together"},
    # Files, and signals.
    "workdir": {"errors"},
    "lease": {"errors"},
    "storage": {"errors", "workdir", "lease"},
    "signals": {"errors"},
    "stall": set(),
    "compilation_cache": set(),
    "saving": {"errors", "workdir", "together"},
    "checkpoint": {"errors", "trees", "workdir", "storage", "saving"},
    "metrics": {"workdir"},
    "plots": {"metrics"},
    "provenance": {"errors", "config", "models", "workdir"},
    "published": set(),
    "runs": {"errors", "config", "protocols", "metrics", "workdir", "provenance"},
    "scorecard": {"published", "runs"},
    "commandline": {"errors"},  # what the commands share
    "receptive_field": set(),
    "layer_table": {"trees", "models.cpu", *PARTS, "receptive_field"},
    "tables": set(),
    "summary": {"errors", "models", "config", "data.prepared", "plots", "commandline", "layer_table", "tables"},
    # Trained networks.
    "transfer": {"errors", "trees", "layer_table"},
    "pretrained": {
        *("errors", "models", "foreign_weights", "recognition", "state_dicts", "hub"),
        *("workdir", "storage", "checkpoint"),
    },
    "trained": {
        *("errors", "trees", "models", "models.base", "data.arrays", "data.augment", "data.images", "pretrained"),
    },
    "cnn_jax": {"models", "trained"},  # the package itself
    "verification": set(),
    "inference": {
        *("errors", "workdir", "compilation_cache", "commandline", "trained"),
        *("data.images", "data.workers", "data.find"),
    },
    # Looking at data and networks.
    "inside": {"errors", "trees", "models.cpu", *PARTS, "receptive_field"},
    "inside_plots": {"data.images", "plots"},
    "pictures": {"errors", "config", "data.images", "data.pipeline", "trained"},
    "visualize_data": {"errors", "config", "plots", "step", "data.augment", "data.mixing", "data.pipeline"},
    "visualize_network": {
        *("errors", "models.layers", "data.augment", "trained", "pictures", "inside", "inside_plots"),
    },
    # The run.
    "sharding": {"errors", "trees", "config"},
    "build": {
        *("errors", "trees", "config", "sharding", "models", "protocols", "data.pipeline", "transfer", "pretrained"),
        *("optim", "step", "evaluate", "workdir", "checkpoint", "layer_table"),
    },
    "diagnostics": {"trees", "models.base", "step", "together", "build"},
    "guard": {"errors", "step", "workdir", "storage", "together", "checkpoint", "metrics", "build", "diagnostics"},
    "show": {"trees", "config", "models", "tables", "build"},
    "clock": {"errors"},
    "train": {
        *("errors", "step", "workdir", "storage", "signals", "stall", "together", "checkpoint", "metrics", "clock"),
        *("plots", "provenance", "summary", "build", "diagnostics", "guard", "show"),
    },
    # The commands.
    "ensemble": {"errors", "evaluate", "workdir", "checkpoint", "metrics", "build", "show"},
    "training_flags": {"errors", "storage", "provenance", "clock", "train", "commandline", "distributed", "together"},
    "main": {"errors", "storage", "compilation_cache", "train", "ensemble", "commandline", "training_flags"},
    "finetune": {
        *("errors", "compilation_cache", "commandline", "together", "pretrained", "transfer", "show"),
        "training_flags",
    },
    "export": {
        *("errors", "foreign_weights", "models.cpu", "data.augment", "workdir", "pretrained", "trained"),
        *("show", "commandline"),
    },
    "prepare_data": {"errors", "workdir", "commandline", "data.images", "data.prepared", "data.tfrecord"},
    "report": {"errors", "commandline", "tables", "provenance", "runs", "scorecard"},
    "visualize": {
        *("errors", "compilation_cache", "commandline", "trained", "pictures", "visualize_data", "visualize_network"),
    },
    "predict": {"errors", "workdir", "commandline", "tables", "data.find", "inference"},
    "embed": {"errors", "commandline", "inference"},
    "verify": {"errors", "workdir", "commandline", "plots", "verification", "inference"},
    "identify": {"errors", "workdir", "commandline", "tables", "plots", "verification", "inference"},
    "torch_twins": {"errors", "models", "models.base", "models.resnet", "config"},
    "baselines": {
        *("errors", "trees", "config", "models.cpu", "torch_twins"),
        *("data.augment", "data.pipeline", "step", "build"),
    },
    "torch_data": {"errors"},
    "measure": {"errors", "data.pipeline", "build", "show", "train", "baselines", "torch_data"},
    "scaling": {"errors", "compilation_cache", "build", "show", "measure"},
    "benchmark": {"errors", "compilation_cache", "tables", "commandline", "measure", "scaling"},
}
# What stands above cnn_jax, and other frameworks: tests compare with torch, data sets are prepared with tensorflow.
TORCH = ("baselines", "torch_twins", "torch_data", "state_dicts")  # import it inside functions
FORBIDDEN = {"tests", "experiments", "torch", "tensorflow"}


def module_name(path: Path) -> str:
    """Returns `data.augment` for data/augment.py, `data` for data/__init__.py, `cnn_jax` for the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "cnn_jax"


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Returns the dotted names of all modules that `source` imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            # `from cnn_jax import trees` imports a module, `from cnn_jax.trees import count` a name of one.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full.removeprefix("cnn_jax.") in FILES else node.module)
    return found


def internal(source: str) -> set[str]:
    names = {name for name in imports(source) if name.split(".")[0] == "cnn_jax"}
    return {name.removeprefix("cnn_jax.") for name in names}


def test_the_modules_are_those_of_the_list():
    assert set(FILES) == set(ALLOWED)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_it_may(module):
    assert internal(FILES[module].read_text(encoding="utf-8")) <= ALLOWED[module]


def test_the_list_goes_down_only():
    order = list(ALLOWED)
    for module, allowed in ALLOWED.items():
        assert allowed <= set(order[: order.index(module)]), module


def test_only_commands_import_the_loop_and_nothing_imports_commands():
    importers = {name: internal(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
    assert {name for name, found in importers.items() if "train" in found} == {"main", "training_flags", "measure"}
    measuring = {name for name, found in importers.items() if found & {"baselines", "measure"}}
    assert measuring == {"measure", "scaling", "benchmark"}
    assert not {name for name, found in importers.items() if found & {"main", "benchmark", "report", "prepare_data"}}


def test_only_main_imports_configurations():
    importers = {name for name, path in FILES.items() if "configs" in top_level(path)}
    assert importers == {"main"}


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_tests_experiments_or_another_framework(module):
    compared = {"torch"} if module in TORCH else set()  # the loop that --against=torch runs, and files
    assert not top_level(FILES[module]) & (FORBIDDEN - compared)


@pytest.mark.parametrize("module", TORCH)
def test_torch_is_imported_inside_functions_only(module):
    outside = [node for node in ast.parse(FILES[module].read_text(encoding="utf-8")).body if not is_function(node)]
    assert "torch" not in {name.split(".")[0] for node in outside for name in imports(ast.unparse(node))}


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


# Of the experiments: module -> the others that it may import. What is not named asks a question.
EXPERIMENTS = {
    "intervals": set(),
    "experiment": set(),
    "plan": {"experiment"},
    "launch": {"plan"},
    "cost": {"experiment"},
    "figures": {"experiment", "intervals", "report"},  # the last for its types only
    "report": {"cost", "experiment", "figures", "intervals", "plan"},
    "sweep": {"experiment", "launch", "plan", "report"},
}


def test_experiments_import_one_way_and_never_the_loop_or_configurations():
    for path in sorted((ROOT.parent / "experiments").glob("*.py")):
        names = imports(path.read_text(encoding="utf-8"))
        own = {name.split(".")[1] for name in names if name.startswith("experiments.")}
        assert own <= EXPERIMENTS.get(path.stem, {"experiment"}), path
        assert not {name.split(".")[0] for name in names} & (FORBIDDEN - {"experiments"} | {"configs"}), path
        assert not {name.removeprefix("cnn_jax.") for name in names} & {"train", "main", "build"}, path


def test_every_way_to_import_is_seen():
    source = """
import cnn_jax.trees, os.path as path
from cnn_jax import step, create
from cnn_jax.data import augment as a
from cnn_jax.models.layers import Conv
def later():
    import torch.nn
    if True:
        from cnn_jax.models import constructor
"""
    assert internal(source) == {"trees", "step", "cnn_jax", "data.augment", "models.layers", "models"}
    assert imports(source) - {f"cnn_jax.{name}" for name in FILES} == {"os.path", "torch.nn", "cnn_jax"}
