"""Networks pushed to the Hub, a server on this computer, and the cards that describe them."""

import functools
import json
import sys

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from safetensors.numpy import save_file

import cnn_jax
import hub_server
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import exporting, hub, model_card
from cnn_jax.pretrained import source as pretrained

NAME = "hub:me/lenet5-digits"
# The library's own upload of a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub_server.serving(tmp_path / "cache", monkeypatch) as repositories:
        yield repositories


def fields(card):
    return yaml.safe_load(card.split("---\n")[1])


def push(source, target=NAME, **options):
    exporting.push(str(source), target, **(dict(names="ours", overwrite=False, private=False) | options))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that trained elsewhere: the weights of the bundled network, and records."""
    folder = tmp_path / "run"
    folder.mkdir()
    found = pretrained.open_source("bundled:lenet5-digits")
    config = {"model": dict(found.model), "duration": "20 epochs", "batch_size": 64, "seed": 7, "precision": "float32"}
    command = ["--config=lenet5", "--workdir", "/home/me/runs/x", "--config.data.dir=/home/me/d", "--config.seed=7"]
    seconds = {"total": 3725.0}
    start = {"arguments": command, "date": "2026-11-21T10:00:00Z", "first_step": 0, "last_step": 400, "ended": "done"}
    start |= {"seconds": seconds, "processor": "Chip 9", "cores": 2, "devices": "1 x cpu (cpu)", "commit": "c0ffee"}
    start["versions"] = {"python": "3.12.1", "jax": "0.10.2"}
    examples = {"train": 1258, "validation": 180, "test": 359}
    test = {"kind": "test", "step": 400, "epoch": 20.0, "loss": 0.031, "error": 0.0084, "top5_error": 0.0}
    test |= {"examples": 359, "protocol": "whole"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps({"name": "digits", "examples": examples}))
    (folder / "run.json").write_text(json.dumps({"parameters": 1, "macs": 1, "changed": {}, "starts": [start]}))
    earlier = test | {"step": 300, "error": 0.5}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (earlier, test)))
    source = pretrained.Pretrained(f"{folder}@400", "lenet5 of run", found.model, found.input, found.leaves)
    monkeypatch.setattr(pretrained, "_from_run", lambda name: source)
    return folder


def test_a_pushed_network_loads_and_computes_the_same(served, run):
    push(run)
    assert set(served["me/lenet5-digits"]) == {"model.safetensors", "config.json", "README.md"}
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    there, here = cnn_jax.load(NAME), cnn_jax.load("bundled:lenet5-digits")
    np.testing.assert_array_equal(there(images), here(images))
    assert there.classes == here.classes
    assert there.source.name == f"{NAME}@{hub_server.COMMIT}"
    config = json.loads(served["me/lenet5-digits"]["config.json"])
    assert (config["architecture"], config["num_classes"]) == ("lenet5", 10)
    assert config["input"]["image_size"] == [28, 28]


def test_the_card_has_what_the_run_recorded(served, run):
    push(run)
    card = served["me/lenet5-digits"]["README.md"].decode()
    for part in (
        "| parameters | 61,706 |",  # LeCun et al. 1998, with full connections in C3
        "| multiply-accumulates for one example | 416,520 |",
        "| classes | 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |",
        "| data | digits: 1,258 train, 180 validation, 359 test |",
        "| checkpoint | step 400, epoch 20 |",
        "| seed | 7 |",
        "| hardware | Chip 9, 2 cores, 1 x cpu (cpu) |",
        "| time, h:mm:ss | 1:02:05 |",
        "| date | 2026-11-21T10:00:00Z |",
        "| versions | python 3.12.1, jax 0.10.2 |",
        "| test | 359 | 99.16 | 100.00 | 0.0310 | whole |",
        "cnn_jax train --config=lenet5 --config.seed=7\n",
        f'network = cnn_jax.load("{NAME}")',
        "## License\n\nNone is named.",
    ):
        assert part in card, part
    assert "/home/me" not in card and str(run) not in card
    found = fields(card)
    assert found["library_name"] == "cnn_jax" and "license" not in found
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9916}]
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}


def test_a_card_of_a_file_has_the_network_only():
    card = model_card.card(pretrained.open_source("bundled:resnet20-cifar10"), "hub:me/x")
    assert "| parameters | 269,722 |" in card and "airplane" in card  # as tests/models/test_models.py has it
    assert "| weights of | bundled:resnet20-cifar10 |" in card
    assert "Its training" not in card and "Train it" not in card and "model-index" not in fields(card)


def test_texts_of_users_are_no_markup(run):
    source = pretrained.open_source(str(run))
    names = ["<img src=x>", "[a](http://b)", "a|b", "x\n---\nlicense: mit", *"456789"]
    source = pretrained.Pretrained(source.name, "", source.model, {**source.input, "classes": names}, source.leaves)
    record = json.loads((run / "run.json").read_text())
    record["starts"][0]["arguments"] = ["--config.recipe=```\n<script>alert(1)</script>\n# Title"]
    (run / "run.json").write_text(json.dumps(record))
    data = {"name": 'a"\nlicense: mit\n<b>', "examples": {"train": 1}}
    (run / "data.json").write_text(json.dumps(data))
    card = model_card.card(source, NAME)
    assert "license" not in fields(card)
    assert fields(card)["model-index"][0]["results"][0]["dataset"]["name"] == data["name"]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card.split("---\n", 2)[2])
    inner = [token for token in tokens for token in (token, *(token.children or []))]
    links = {token.attrs["href"] for token in inner if token.type == "link_open"}
    assert links == {model_card.HOME}
    assert not {"html_block", "html_inline", "image"} & {token.type for token in inner}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Use it", "Train it", "License"]
    fences = [token.content for token in tokens if token.type == "fence"]
    assert len(fences) == 3 and "<script>" in fences[2]


def test_an_existing_repository_keeps_its_license(served, run):
    push(run)
    with pytest.raises(UserError, match="has weights already: name another, or add --overwrite"):
        push(run)
    card = served["me/lenet5-digits"]["README.md"]
    served["me/lenet5-digits"]["README.md"] = card.replace(b"# license: ...", b"license: apache-2.0")
    push(run, overwrite=True)
    card = served["me/lenet5-digits"]["README.md"].decode()
    assert fields(card)["license"] == "apache-2.0" and "## License" not in card


def test_a_new_repository_is_private_on_request(served):
    push("bundled:lenet5-digits", "hub:me/public")
    push("bundled:lenet5-digits", "hub:me/secret", private=True)
    assert hub_server.Handler.private == {"me/secret"}


def test_the_command_pushes_and_says_where(served, call):
    printed = call("export", "--checkpoint=bundled:lenet5-digits", f"--output={NAME}").out.replace("\n", " ")
    assert "/me/lenet5-digits: cnn_jax.load('hub:me/lenet5-digits') takes it" in printed
    assert "README.md" in served["me/lenet5-digits"]


@pytest.mark.parametrize("name", ["lenet5", "a/b/c", "me/", "me/a b", "me/x@main"])
def test_malformed_names_are_refused(name):
    with pytest.raises(UserError, match="names no repository: write hub:OWNER/NAME"):
        hub.check_target(f"hub:{name}", overwrite=False)


def test_names_that_the_hub_refuses(served):
    with pytest.raises(UserError, match="hub:me/x--y: "):
        hub.check_target("hub:me/x--y", overwrite=False)


def test_one_message_without_library_login_or_rights(served, monkeypatch):
    def refused(target=NAME):
        with pytest.raises(UserError) as error:
            push("bundled:lenet5-digits", target)
        return str(error.value)

    assert "your token may not write there" in refused("hub:others/x")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "the Hub does not know your token: log in again" in refused()
    monkeypatch.setattr(sys.modules["huggingface_hub"], "get_token", lambda: None)
    assert "you are not logged in to the Hub: hf auth login, or set HF_TOKEN" in refused()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs the library huggingface_hub: pip install 'cnn-jax[hub]'" in refused()
    assert not served


def test_one_message_without_a_network(served, monkeypatch):
    library = sys.modules["huggingface_hub"]
    monkeypatch.setattr(library, "HfApi", functools.partial(library.HfApi, endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"the Hub cannot be reached .*push it later"):
        hub.check_target(NAME, overwrite=False)


def test_private_is_of_the_hub_only(refused, tmp_path):
    output = f"--output={tmp_path / 'x.safetensors'}"
    message = refused("export", "--checkpoint=bundled:lenet5-digits", output, "--private")
    assert "--private is about a repository of the Hub" in message


def test_the_file_of_a_hub_of_others_is_still_recognized(served, tmp_path):
    source = pretrained.open_source("bundled:lenet5-digits")
    save_file(source.leaves, tmp_path / "x.safetensors")
    served["some/net"] = {"model.safetensors": (tmp_path / "x.safetensors").read_bytes()}
    with pytest.raises(UserError, match="the weights of no network that is known here"):
        pretrained.open_source("hub:some/net")
