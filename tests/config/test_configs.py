import ast
import json
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from cnn_jax import models
from cnn_jax.config import datasets, fields, recipes
from cnn_jax.config import fields as base
from cnn_jax.config.fields import get, model_fields
from cnn_jax.core.errors import UserError
from cnn_jax.models import FROM_DATA
from cnn_jax.training.config_check import check_config
from recipes import FILES, NETWORKS, get_config

# Networks whose data set, without a name, is not the digits; and those that do not take images.
OWN_DATA = {"toy": "xo", "conv1d": "sequences", "c3d": "moving_digits"}
NOT_IMAGES = {"conv1d": {"sequences", "folder", "synthetic"}, "c3d": {"moving_digits", "folder", "synthetic"}}
# Values of config.model that differ from the constructor's on purpose: the recipe's, or those of the file's network.
OVERRIDES = {
    **{name: {"zero_gamma": True} for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
}
# And those of a network on one data set. Without normalization, small networks with many layers hardly learn.
OVERRIDES_FOR_DATA = {
    ("googlenet", "imagenet2012"): {"auxiliary": True},
    **{("googlenet", name): {"norm": "batch"} for name in datasets.DATASETS if name not in ("imagenet2012", "digits")},
    ("googlenet", "digits"): {"norm": "batch", "width": 0.25},
    ("nin", "digits"): {"head": "gap", "norm": "batch", "width": 0.25},
    ("nin_cifar", "digits"): {"head": "gap", "norm": "batch", "width": 0.5},
    ("squeezenet1_0", "digits"): {"head": "gap", "norm": "batch", "width": 0.5},
    ("squeezenet1_1", "digits"): {"head": "gap", "norm": "batch", "width": 0.5},
    ("resnet110", "digits"): {"zero_gamma": True},
    ("resnet1202", "digits"): {"zero_gamma": True, "width": 0.25},
    ("c3d", "moving_digits"): {"norm": "batch", "width": 0.125, "dropout": 0.0},
}
# The same for networks whose ImageNet recipe has the paper's values, while the other recipes have ours.
SMALL_VGG = {"norm": "batch", "fc_sizes": (512,), "init": "he_fan_in"}
SMALL_OVERRIDES = {
    "alexnet": {"init": "he_fan_in", "initial_bias": 0.0},
    "zfnet": {"init": "he_fan_in"},
    **{name: SMALL_VGG for name in ("vgg11", "vgg13", "vgg16c", "vgg16", "vgg19")},
    "vgg11_lrn": {name: value for name, value in SMALL_VGG.items() if name != "norm"},
}
# Basic blocks have one form: the configurations of networks with only basic blocks leave these out.
LARGE_IMAGES_ONLY = {"variant", "groups", "width_per_group", "reduction", "kernel_plan", "pool", "overlapping"}
SMALL_IMAGES = {"cifar_resnet", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202"}

every_network = pytest.mark.parametrize("name", NETWORKS)
every_data_set = pytest.mark.parametrize("dataset", sorted(set(datasets.DATASETS) - {"sequences", "moving_digits"}))


def data_sets(name: str) -> set[str]:
    """Returns the data sets whose examples have the axes that a network takes."""
    return NOT_IMAGES.get(name, set(datasets.DATASETS) - {"sequences", "moving_digits"})


every_pair = pytest.mark.parametrize(("name", "dataset"), [(n, d) for n in NETWORKS for d in sorted(data_sets(n))])


def build(config: ConfigDict):
    """Returns the network as the training loop builds it, but with shapes only."""
    return nnx.eval_shape(
        lambda: models.create(
            config.model.name,
            num_classes=config.data.num_classes,
            input_shape=(*config.data.image_size, config.data.channels),
            **model_fields(config),
        )
    )


def test_every_network_has_a_configuration_of_its_name():
    assert set(NETWORKS) == set(models.MODELS)
    for name in NETWORKS:
        assert get_config(name).model.name == name


@every_pair
def test_every_configuration_passes_the_check_on_every_data_set(name, dataset):
    config = get_config(name, dataset)
    check_config(config)
    assert config.data.name == dataset
    row = datasets.DATASETS[dataset]
    own = {"image_size", "augment", "normalize", "train_crop"}  # a recipe may enlarge or augment
    if dataset == "folder" and name in NOT_IMAGES:  # nor are all of them photographs
        own |= {"test_crop", "placement", "mean", "std", "channels"}
    for field in set(row) - own:
        assert config.data[field] == row[field]


@every_network
def test_without_a_data_set_it_is_bundled_data(name):
    own = OWN_DATA.get(name, "digits")
    assert get_config(name).to_json() == get_config(name, own).to_json()
    assert get_config(name).data.source == own


@pytest.mark.parametrize(
    ("name", "dataset", "kind"),
    [
        ("lenet5", "sequences", "images"),
        ("resnet20", "moving_digits", "images"),
        ("conv1d", "digits", "sequences"),
        ("c3d", "cifar10", "clips"),
    ],
)
def test_data_of_another_kind_is_an_error_that_names_both(name, dataset, kind):
    with pytest.raises(UserError, match=f"{name} takes {kind}, but the data set '{dataset}' has none"):
        check_config(get_config(name, dataset))


FITTED: set[str] = set()


@every_data_set
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnet50", "alexnet", "zfnet", "vgg16"])
def test_the_networks_fit_the_images_of_every_data_set(name, dataset):
    config = get_config(name, dataset)
    config.data.num_classes = config.data.num_classes or 7  # the folder determines how many
    fitted = json.dumps([config.model.to_dict(), *config.data.image_size, config.data.channels])
    if fitted in FITTED:  # with the images of another data set
        return
    FITTED.add(fitted)
    model = build(config)
    shape = (2, *config.data.image_size, config.data.channels)
    graphdef, state = nnx.split(nnx.view(model, deterministic=True, raise_if_not_found=False))
    logits = jax.eval_shape(
        lambda state, x: nnx.merge(graphdef, state)(x), state, jax.ShapeDtypeStruct(shape, "float32")
    )
    assert logits.shape == (2, config.data.num_classes)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"lenet5", "resnet20", "resnet50"}))
def test_the_other_networks_can_be_built(name):
    model = build(get_config(name))
    if name == "lenet5_1998":
        assert model.head.classifier.num_classes == 10  # its codes are not parameters
    else:
        assert model.head.classifier.kernel.shape[-1] == {"toy": 2, "c3d": 40}.get(name, 10)


def test_resnet1202_has_the_recipe_of_resnet110():
    deep, deepest = (get_config(name, "cifar10") for name in ("resnet110", "resnet1202"))
    assert (deep.remat, deepest.remat) == (False, True)
    assert deepest.to_dict() | {"model": None, "remat": False} == deep.to_dict() | {"model": None}
    assert model_fields(deepest) == model_fields(deep)


@every_pair
def test_the_fields_of_the_network_have_the_constructors_defaults(name, dataset):
    defaults, given = models.fields(name), model_fields(get_config(name, dataset))
    assert set(given) <= set(defaults)
    differing = {field: value for field, value in given.items() if value != defaults[field]}
    if name == "lenet5" and get_config(name, dataset).data.image_size == (32, 32):
        assert differing.pop("padding") == 0  # the paper's size needs none
    expected = OVERRIDES.get(name, {}) | OVERRIDES_FOR_DATA.get((name, dataset), {})
    if dataset != "imagenet2012":
        expected |= SMALL_OVERRIDES.get(name, {})
        if name in SMALL_OVERRIDES and dataset == "digits":
            expected |= {"width": 0.25}
    assert differing == expected
    for field, value in given.items():  # the command line parses a value by the type of the default: 1 is not 1.0
        assert type(value) is type(defaults[field]), field


@every_network
def test_every_field_of_the_network_can_be_set_on_the_command_line(name):
    hidden = {*FROM_DATA, "layout", "version"} | (LARGE_IMAGES_ONLY if name in SMALL_IMAGES else set())
    if name != "cifar_resnet":
        hidden |= {"depth", "configuration"}  # the name implies it
    assert set(model_fields(get_config(name))) == set(models.fields(name)) - hidden


@every_network
def test_every_configuration_has_the_fields_of_the_base_and_no_others(name):
    for dataset in data_sets(name):
        config, known = get_config(name, dataset), base.get_config(dataset)
        fields = names(known.to_dict())
        assert names(config.to_dict() | {"model": None}) == fields
        for field in fields:
            assert type(get(config, field)) is type(get(known, field)), field


def names(tree: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in tree.items():
        found |= names(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
    return found - {"model"}


@every_network
def test_a_mistyped_field_fails_once_the_configuration_is_locked(name):
    config = get_config(name).lock()
    with pytest.raises(AttributeError):
        config.model.widht = 2.0
    with pytest.raises(AttributeError):
        config.bach_size = 2
    with pytest.raises(TypeError):
        config.batch_size = "64"


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnet50", "alexnet", "vgg16"])
def test_any_other_name_is_a_data_set_of_tfds(name):
    config = get_config(name, "stanford_dogs")
    check_config(config)
    data = config.data
    assert (data.source, data.name, data.num_classes) == ("tfds", "stanford_dogs", 0)
    assert data.train == data.validation == data.test == ""
    assert get_config(name, "imagenette/320px").data.test == datasets.DATASETS["imagenette"]["test"]  # a variant
    with pytest.raises(ValueError, match=r"NAME or NAME/VARIANT, not 'mnist:3'\. Known: digits"):
        get_config(name, "mnist:3")


def test_a_mistyped_name_of_other_data_gets_the_near_match():
    with pytest.raises(UserError, match=r"has none: name one .*; did you mean 'sequences'"):
        check_config(get_config("conv1d", "sequence"))


def test_every_row_of_the_table_of_data_sets_has_known_fields():
    for row in datasets.DATASETS.values():
        for field, value in row.items():
            assert type(value) is type(fields.FIELDS[f"data.{field}"].default)


def test_the_paper_recipes_are_the_papers():
    for name, warmup in (("resnet20", "0 steps"), ("resnet56", "0 steps"), ("resnet110", "400 steps")):
        config = get_config(name, "cifar10")  # section 4.2
        assert (config.duration, config.batch_size) == ("64000 steps", 128)
        assert tuple(config.optim.schedule.boundaries) == ("32000 steps", "48000 steps")
        assert (config.optim.schedule.name, config.optim.schedule.factor) == ("steps", 0.1)
        assert (config.optim.learning_rate, config.optim.momentum, config.optim.weight_decay) == (0.1, 0.9, 1e-4)
        assert config.optim.schedule.warmup == warmup
        assert config.data.augment == ("pad_crop:4", "flip") and config.data.normalize == "pixel"
        assert (config.data.train, config.data.validation) == ("train[:45000]", "train[45000:]")
        assert config.model.init == "he_fan_out" and config.model.shortcut == "A"
    config = get_config("resnet110", "cifar10").optim
    assert config.learning_rate * config.schedule.warmup_start == pytest.approx(0.01)

    config = get_config("resnet50", "imagenet2012")  # Goyal et al. 2017, section 5.1
    assert (config.duration, config.batch_size, config.optim.learning_rate) == ("90 epochs", 256, 0.1)
    assert tuple(config.optim.schedule.boundaries) == ("30 epochs", "60 epochs", "80 epochs")
    assert (config.optim.schedule.warmup, config.optim.weight_decay) == ("5 epochs", 1e-4)

    config = get_config("alexnet", "imagenet2012")  # section 5
    assert (config.duration, config.batch_size, config.optim.learning_rate) == ("90 epochs", 128, 0.01)
    assert (config.optim.schedule.name, config.optim.schedule.factor) == ("plateau", 0.1)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 5e-4)
    assert (config.model.init, config.model.initial_bias, config.model.dropout) == ("normal_0.01", 1.0, 0.5)
    config = get_config("c3d", "synthetic")  # section 3: the comparison on UCF101
    assert (config.duration, config.batch_size, config.optim.learning_rate) == ("16 epochs", 30, 0.003)
    assert tuple(config.optim.schedule.boundaries) == ("4 epochs", "8 epochs", "12 epochs")
    assert (config.optim.schedule.name, config.optim.schedule.factor) == ("steps", 0.1)
    for name in ("vgg11", "vgg16", "vgg19"):
        config = get_config(name, "imagenet2012")  # section 3.1
        assert (config.duration, config.batch_size, config.optim.learning_rate) == ("74 epochs", 256, 0.01)
        assert (config.optim.schedule.name, config.optim.schedule.factor) == ("plateau", 0.1)
        assert (config.optim.momentum, config.optim.weight_decay, config.model.dropout) == (0.9, 5e-4, 0.5)


def test_the_slides_recipe_of_resnet_is_the_slides():
    for name, dataset, batch in (("resnet50", "imagenet2012", 256), ("resnet18", "digits", 64)):
        config = get_config("resnet50_slide", dataset, name)
        check_config(config)
        assert (config.model.name, config.batch_size, config.optim.name) == (name, batch, "sgd")
        assert (config.optim.momentum, config.optim.weight_decay, config.optim.decay_rule) == (0.9, 1e-5, ".*")
        assert (config.optim.learning_rate, config.optim.schedule.warmup) == (0.1, "0 steps")
        assert (config.optim.schedule.name, config.optim.schedule.factor) == ("plateau", 0.1)
        assert model_fields(config) == {field: models.fields(name)[field] for field in model_fields(config)}
        assert (config.model.init, config.model.norm, config.model.dropout) == ("he_fan_out", "batch", 0.0)
    data = get_config("resnet50_slide", "imagenet2012").data
    assert (data.train_crop, tuple(data.train_resize)) == ("random", (256, 480))


def test_the_crops_and_colors_of_imagenet_are_the_papers():
    color = ("flip", "pca_color:0.1")
    for name, crop, sides, augment in (
        ("alexnet", "random_central", (256, 256), color),  # section 4.1
        ("nin", "random_central", (256, 256), color),
        ("zfnet", "random_central", (256, 256), ("flip",)),  # section 3.1
        ("squeezenet1_0", "random_central", (256, 256), ("flip",)),
        *((name, "random", (256, 512), color) for name in ("vgg11", "vgg16", "vgg19")),  # section 3.1, Table 3
        ("googlenet", "random_resized", None, ("flip",)),  # section 6
        ("resnet50", "random_resized", None, ("flip",)),  # Goyal et al. 2017, section 5.1
    ):
        data = get_config(name, "imagenet2012").data
        assert (data.train_crop, tuple(data.augment)) == (crop, augment), name
        assert sides is None or tuple(data.train_resize) == sides, name
        assert data.placement == "stream"


# ---------------------------------------------------------------- replay


def stored(config: ConfigDict, folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(config.to_json(), encoding="utf-8")
    return str(path)


@every_network
def test_a_stored_configuration_comes_back_exactly(name, tmp_path):
    for dataset in data_sets(name):
        config = get_config(name, dataset)
        again = get_config("replay", stored(config, tmp_path))
        assert again.to_json() == config.to_json()
        assert again.to_dict() == config.to_dict()  # tuples are tuples, where JSON has lists
        check_config(again)


def test_changed_values_come_back_too(tmp_path):
    config = get_config("resnet50").lock()
    config.seed = 7
    config.model.fc_sizes = (128,)
    config.model.width = 0.5
    config.data.mean, config.data.std = (0.25,), (0.125,)
    config.optim.lr_multipliers = (("head/.*", 10.0), (".*", 1.0))
    config.optim.schedule.boundaries = ()
    again = get_config("replay", stored(config, tmp_path))
    assert again.to_dict() == config.to_dict()
    assert again.optim.lr_multipliers == (("head/.*", 10.0), (".*", 1.0))
    assert again.to_json() == config.to_json()


def test_fields_that_a_record_lacks_take_their_defaults(tmp_path):
    record = json.loads(get_config("resnet20").to_json())
    del record["ema_decay"], record["optim"]["schedule"]["power"], record["model"]["zero_gamma"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    again = get_config("replay", str(path))
    assert again.ema_decay == 0.0 and again.optim.schedule.power == 1.0
    check_config(again)


# ---------------------------------------------------------------- imports


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("name", FILES)
def test_recipes_import_cnn_jax_only(name):
    assert imported(FILES[name]) - set(sys.stdlib_module_names) <= {"ml_collections", "cnn_jax"}


# ---------------------------------------------------------------- recipes by name


def test_a_recipe_is_found_by_name_or_path(tmp_path, monkeypatch):
    file = recipes.find("resnet18")
    assert file.name == "resnet18.py" and file.parent.name == "configs"
    expected = get_config("resnet18", "cifar10").to_json()
    monkeypatch.chdir(tmp_path)
    assert recipes.load("resnet18", "cifar10").to_json() == recipes.load(file, "cifar10").to_json() == expected
    assert recipes.load("resnet18").to_json() == recipes.load(str(file)).to_json() == get_config("resnet18").to_json()
    own = tmp_path / "mine.py"
    own.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    assert recipes.load(own, "cifar10").to_json() == expected


def test_recipes_of_an_installed_package_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "PACKAGE", tmp_path / "cnn_jax")
    with pytest.raises(UserError, match=r"there are no recipes: neither .*recipes nor .*configs is a folder"):
        recipes.names()
    recipe = "from ml_collections import ConfigDict\n"
    recipe += "def get_config(x='default', y=0):\n    return ConfigDict(dict(x=x, y=y))\n"
    for folder, name in (("configs", "beside"), ("cnn_jax/recipes", "inside")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.py").write_text(recipe)
        assert recipes.names() == [name]
    assert recipes.load("inside").to_dict() == dict(x="default", y=0)
    assert recipes.get_config("inside", "mnist", y=2).to_dict() == dict(x="mnist", y=2)


def test_a_missing_recipe_gets_the_near_match():
    with pytest.raises(UserError, match=r"the recipe is 'resnet5', but must be one of .*; did you mean 'resnet\d+'\?"):
        recipes.load("resnet5")
    with pytest.raises(UserError, match=r"there is no file 'configs/none\.py'"):
        recipes.load("configs/none.py")


def test_a_recipe_starts_from_all_defaults_of_its_network():
    config = fields.get_config("mnist", "vgg16")
    assert config.model.name == "vgg16" and config.data.name == "mnist"
    assert model_fields(config) == {name: option.default for name, option in models.options("vgg16").items()}
    assert model_fields(fields.get_config("mnist")) == {}
    with pytest.raises(UserError, match="did you mean 'vgg16'"):
        fields.get_config("mnist", "vgg166")
