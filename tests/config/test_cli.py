"""How words become flags and a configuration, and what --help and --print_config say."""

import pytest
from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_integer, DEFINE_list, DEFINE_string

from cnn_jax.config import cli, recipes
from cnn_jax.config.configuration import Configuration
from cnn_jax.config.fields import FIELDS
from cnn_jax.core.errors import UserError


def parsed(*arguments):
    flags = cli.Flags(arguments)
    cli.define_config(flags)
    DEFINE_bool("json", False, "", flag_values=flags)
    return flags, flags.parse()


@pytest.mark.parametrize(
    ("arguments", "overrides", "words"),
    [
        (("a", "--config.seed=1", "b"), ["seed=1"], ["a", "b"]),
        (("--config.duration", "5 epochs", "b"), ["duration=5 epochs"], ["b"]),
        (("--config.seed", "-1"), ["seed=-1"], []),
        (("-config.seed=1", "--config.seed=2"), ["seed=1", "seed=2"], []),
        (("--config.log.tensorboard", "--json"), ["log.tensorboard=true"], []),
        (("--noconfig.log.tensorboard", "b"), ["log.tensorboard=false"], ["b"]),
        (("--config.recipe=a=b\nc",), ["recipe=a=b\nc"], []),
        (("--config.model.residual=False", "--config=x.py"), ["model.residual=False"], []),
    ],
)
def test_overrides_are_told_from_words(arguments, overrides, words):
    flags, found = parsed(*arguments)
    assert (flags.overrides, found) == (overrides, words)
    assert flags.arguments == list(arguments)


def test_flags_may_come_from_a_file(tmp_path):
    (tmp_path / "flags").write_text("--json\n--config.seed=3\n")
    flags, words = parsed("a", f"--flagfile={tmp_path}/flags", "b")
    assert (flags.json, flags.overrides, words) == (True, ["seed=3"], ["a", "b"])


def test_command_lines_share_nothing():
    first, _ = parsed("--config=lenet5", "--config.seed=1", "--json")
    second, _ = parsed("--config=mlp")
    assert (first.config, first.json, second.config, second.json, second.overrides) == (
        *("lenet5", True, "mlp", False),
        [],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jsn",), "there is no flag --jsn; did you mean '--json'"),
        (("--config=a", "--config=b"), "--config=b: already defined as a"),
        (("--json=perhaps",), "perhaps"),
        (("--config",), "Missing value for flag --config"),
    ],
)
def test_mistyped_flag_is_one_message(arguments, message):
    with pytest.raises(UserError, match=message):
        parsed(*arguments)


def test_command_without_a_configuration_says_so():
    flags = cli.Flags(["--config.seed=1"])
    with pytest.raises(UserError, match="this command takes no --config"):
        flags.parse()


# ---------------------------------------------------------------- configurations


def test_overrides_change_a_locked_copy_in_their_order():
    first = Configuration.from_recipe("lenet5", ["seed=1"])
    second = first.with_overrides(["model.width=2", "seed=3", "data.image_size=(20, 20)", "log.tensorboard=false"])
    assert (first.config.seed, second.config.seed, second.config.model.width) == (1, 3, 2.0)
    assert second.config.data.image_size == (20, 20) and second.config.log.tensorboard is False
    assert second.overridden == {"seed", "model.width", "data.image_size", "log.tensorboard"}
    assert first.config.is_locked and second.config.is_locked


@pytest.mark.parametrize("text", ["mlp model.width=2", "configs/mlp.py --config.model.width=2"])
def test_another_network_is_named_with_its_changes(text):
    other = Configuration.from_recipe("lenet5", ["seed=1"]).other(text, flag="--compare")
    assert (other.config.model.name, other.config.model.width, other.config.seed) == ("mlp", 2.0, 0)
    assert other.overrides == ("model.width=2",)


def test_changes_alone_are_those_of_the_same_network():
    other = Configuration.from_recipe("lenet5", ["seed=1"]).other("model.head=gap", flag="--compare")
    assert other.overrides == ("seed=1", "model.head=gap") and other.config.seed == 1


def test_text_has_every_field_with_its_value():
    text = Configuration.from_recipe("lenet5:mnist", ["seed=7"]).text()
    lines = dict(line.split(" = ", 1) for line in text.splitlines())
    found = {name.strip(): value for name, value in lines.items()}
    assert set(FIELDS) <= set(found) and found["seed"] == "7" and found["data.name"] == "'mnist'"
    assert found["model.name"] == "'lenet5'"


def test_users_own_configs_package_disturbs_nothing(call, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError")
    assert "parameters" in call("summary", "--config=resnet20", cwd=tmp_path).out


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.find(name).is_file()


# ---------------------------------------------------------------- help


def define(flags):
    """Test."""
    cli.define_config(flags)
    with flags.under("Group"):
        DEFINE_string("out", None, "FILE: where it goes; a long text that needs " + "more " * 20, flag_values=flags)
        DEFINE_enum("form", "text", ["text", "csv"], "What to print.", flag_values=flags)
        DEFINE_integer("count", 3, "How many.", flag_values=flags)
        DEFINE_list("names", ["a", "b"], "NAME,...: which.", flag_values=flags)
        DEFINE_bool("group", True, "Together.", flag_values=flags)


def printed(capsys, *arguments):
    assert cli.call(define, lambda *_: 5, arguments, usage="cnn_jax test WORDS") == 0
    return capsys.readouterr().out


def test_help_is_grouped_wrapped_and_has_the_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(capsys, "--help")
    assert text.startswith("usage: cnn_jax test WORDS\n\nHow words become flags")
    assert "\nGroup:\n  --out=FILE  " in text and max(map(len, text.splitlines())) <= 80
    for line in ("--form={text,csv}", "What to print. Default: text.", "How many. Default: 3.", "--[no]group"):
        assert line in text
    assert "--names=NAME,...        Which. Default: a,b." in text
    assert "--config.seed" not in text


def test_help_with_a_configuration_lists_its_fields(capsys):
    text = printed(capsys, "--help", "--config=lenet5", "--config.optim.momentum=0.5")
    for name in FIELDS:
        assert f"--config.{name}=" in text
    assert "--config.optim.momentum=0.5" in text and "--config.model.head=fc" in text
    assert "Length of training." in text and '--config.duration="40 epochs"' in text
    assert "From maps to class scores." in text


def test_print_config_prints_and_stops(capsys):
    assert "batch_size" in printed(capsys, "--print_config", "--config=lenet5")


def test_exit_code_is_that_of_the_command(capsys):
    assert cli.call(define, lambda flags, words: len(words), ["a", "b"], usage="") == 2
    assert cli.call(define, lambda *_: None, [], usage="") == 0
