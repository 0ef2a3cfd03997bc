"""How words become flags and a configuration, and what --help and --print_config say."""

import subprocess
import sys

import pytest
from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_integer, DEFINE_list, DEFINE_string

from cnn_jax.config import cli, recipes
from cnn_jax.config.configuration import Configuration
from cnn_jax.config.fields import FIELDS, get
from cnn_jax.core.errors import UserError
from commands import environment


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
        (("--config.eval.layers", "--json"), ["eval.layers=true"], []),
        (("--noconfig.eval.layers", "b"), ["eval.layers=false"], ["b"]),
        (("--config.recipe=a=b\nc",), ["recipe=a=b\nc"], []),
        (("--config.model.residual=False", "--config=x.py"), ["model.residual=False"], []),
    ],
)
def test_overrides_are_distinguished_from_words(arguments, overrides, words):
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
    second = first.with_overrides(["model.width=2", "seed=3", "data.image_size=(20, 20)", "eval.layers=false"])
    assert (first.config.seed, second.config.seed, second.config.model.width) == (1, 3, 2.0)
    assert second.config.data.image_size == (20, 20) and second.config.eval.layers is False
    assert second.overridden == {"seed", "model.width", "data.image_size", "eval.layers"}
    assert first.config.is_locked and second.config.is_locked


@pytest.mark.parametrize("field", ["loss_options", "optim.options"])
def test_arguments_of_any_name_are_set_together_or_one_by_one(tmp_path, field):
    first = Configuration.from_recipe("lenet5", [f"{field}={{'b2': 0.95, 'kind': 'x'}}"])
    assert get(first.config, field).to_dict() == {"b2": 0.95, "kind": "x"}
    second = first.with_overrides([f"{field}.b2=0.9", f"{field}.mu_dtype=bfloat16", f"{field}.betas=(0.9, 0.99)"])
    expected = {"b2": 0.9, "kind": "x", "mu_dtype": "bfloat16", "betas": (0.9, 0.99)}
    assert get(second.config, field).to_dict() == expected and second.config.is_locked
    assert f"{field}.b2" in second.text()
    (tmp_path / "config.json").write_text(second.config.to_json())
    recorded = Configuration.from_run(tmp_path, [f"{field}.nesterov=True"]).config
    assert get(recorded, field).to_dict() == expected | {"nesterov": True}
    assert get(second.with_overrides([f"{field}={{}}"]).config, field).to_dict() == {}
    for text, message in (("=3", "is '3', but must be a dict of arguments"), (".a.b=1", f"name it {field}.b")):
        with pytest.raises(UserError, match=message):
            first.with_overrides([field + text])


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


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("last", ["('flip',)", "()"])
def test_the_last_value_of_a_field_wins(last):
    first = "()" if last != "()" else "('flip', 'pad_crop:4')"
    found = Configuration.from_recipe("lenet5", [f"data.augment={first}", f"data.augment={last}"])
    assert found.config.data.augment == eval(last)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optim.schedule=cosine",
            "'optim.schedule' is a section, not a field: give --config.optim.schedule.name=",
        ),
        ("model=lenet5", "'model' is a section"),
        ("learning_rate=0.1", "did you mean 'optim.learning_rate'"),
        ("epochs=5", "did you mean 'duration'"),
        ("lr=5", "did you mean 'optim.learning_rate'"),
        ("bath_size=5", "did you mean 'batch_size'"),
        ("optim.schedule.nam=x", "did you mean 'optim.schedule.name'"),
    ],
)
def test_an_unknown_field_gets_the_near_match(override, message):
    with pytest.raises(UserError) as raised:
        Configuration.from_recipe("lenet5", [override])
    assert message in str(raised.value)


def test_home_is_expanded_everywhere(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    flags = cli.Flags(
        ["~/a", "--config.data.dir=~/data", "--config.init_from", "~/x.pth", "--out=~/o", "--runs=~/r,~/s"]
    )
    cli.define_config(flags)
    DEFINE_string("out", None, "", flag_values=flags)
    DEFINE_list("runs", [], "", flag_values=flags)
    assert flags.parse() == ["/home/me/a"]
    assert flags.overrides == ["data.dir=/home/me/data", "init_from=/home/me/x.pth"]
    assert flags.out == "/home/me/o" and flags.runs == ["/home/me/r", "/home/me/s"]


# ---------------------------------------------------------------- the user's own configuration files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "c.py, line 1: "),
        ("import nowhere_at_all", "c.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1", "c.py has no function get_config"),
        ("def get_confg():\n    return 1", "did you mean 'get_confg'"),
        (
            "def get_config():\n    return {}",
            "get_config returned a value of type dict, but must return a ConfigDict",
        ),
        ("def get_config():\n    pass", "get_config returned nothing"),
        ("def get_config():\n    return 1 / 0", "c.py, line 2: ZeroDivisionError: division by zero\n  File"),
        ("import sys\nsys.exit(3)", "c.py, line 2: SystemExit: 3"),
        ("def get_config():\n    raise ValueError('not so')", "c.py, line 2: not so"),
    ],
)
def test_a_configuration_file_that_fails_is_one_message(refused, tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    assert message in refused("summary", "--config=c.py", cwd=tmp_path)


# ---------------------------------------------------------------- standard output, platforms, interrupts


def test_control_characters_are_not_obeyed(refused):
    err = refused("predict", "a\x1b]0;title\x07.png", "--checkpoint=bundled:lenet5-digits")
    assert "\x1b" not in err and "\\x1b]0;title\\x07.png" in err


def raising(error):
    def run(*_):
        raise error

    return run


def test_an_interrupt_during_an_import_stays_an_interrupt(capsys, monkeypatch):
    monkeypatch.setattr(cli.atexit, "register", lambda *_: None)
    try:
        raise ImportError("numpy") from KeyboardInterrupt()
    except ImportError as error:
        assert cli.call(define, raising(error), [], usage="") == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    with pytest.raises(ImportError):
        cli.call(define, raising(ImportError("numpy")), [], usage="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 74, "error: standard output cannot be written: No space left on device\n"),
        (">&-", 0, "standard output is closed: what is printed goes nowhere\n"),
    ],
)
def test_standard_output_that_cannot_be_written(redirection, code, message):
    line = f"{sys.executable} -m cnn_jax.summary --config=lenet5 {redirection}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_missing_platform_is_one_message(platform):
    line = [sys.executable, "-m", "cnn_jax.main", "--config=lenet5", "--dry-run"]
    variables = environment() | {"JAX_PLATFORMS": platform}
    done = subprocess.run(line, capture_output=True, text=True, env=variables)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: jax cannot compute with JAX_PLATFORMS={platform!r}: ")


@pytest.mark.slow
def test_an_interrupt_that_is_swallowed_comes_again():
    script = (
        "import gc, sys, time; from cnn_jax.config import cli\n"
        "def swallow(phase, info):\n    gc.callbacks.remove(swallow); raise KeyboardInterrupt\n"
        "def define(flags):\n    'x'\n"
        "def run(*_):\n    gc.callbacks.append(swallow); gc.collect(); time.sleep(20)\n"
        "sys.exit(cli.call(define, run, [], usage=''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=15)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")
