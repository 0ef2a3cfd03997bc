"""The commands of the README and of docs/, run as they are written, in a folder that has configs/ as a clone does."""

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cnn_jax.__main__ import COMMANDS, EXAMPLES
from cnn_jax.config.fields import FIELDS
from cnn_jax.models import MODELS
from commands import ROOT, process

NAVIGATION = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
PAGES = {  # in the order of the navigation: later pages read what earlier ones wrote
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", *(f"docs/{page}" for page in re.findall(r"(\w+\.md)$", NAVIGATION, re.M)))
    if (ROOT / name).exists()
}
README = PAGES["README.md"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# What a command prints, by its name, by one of its flags, or by both.
PRINTED = {
    "--cost": "Fire 4",
    "--find-lr": "the loss falls fastest at",
    "--help": "--config",
    "main --list": "resnet1202",
    "sweep --list": "residual",
    "--print_config": "optim.",
    "--scorecard": "resnet50",
    "__main__": "visualize",
    "benchmark": "images/s",
    "export": "bytes;",
    "lectures": "wrong on the slide",
    "report": "resnet50",
    "summary": "parameters",
    "toy": "65 of 81 pixels",
    "sweep": "?",
    "visualize": ".png: ",
}


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands():
    """Returns every command of the bash blocks and of `cnn_jax` alone once, with `a && b` as two."""
    lines = [line for text in PAGES.values() for block in blocks("bash", text) for line in block.splitlines()]
    parts = [part.strip() for line in lines if line and not line.startswith("#") for part in line.split("&&")]
    return list(dict.fromkeys([*parts, *EXAMPLES.values()]))


def as_module(words):
    """Returns [module, arguments...] of `python -m MODULE ...`, and of `cnn_jax COMMAND ...`."""
    if words[0] == "cnn_jax":
        known = words[1] in COMMANDS
        return [f"cnn_jax.{COMMANDS[words[1]].module}", *words[2:]] if known else ["cnn_jax.__main__", *words[1:]]
    assert words[:2] == ["python", "-m"], words
    return words[2:]


def name(module):
    """Returns the command that a module is: `experiments.sweep` and `cnn_jax.sweep` are one."""
    return module.split(".")[-1]


def shortened(module, *words):
    """Returns the arguments that the test runs: what takes hours is done up to its first step."""
    words = list(words)
    prepared = any(re.match(r"--config=[\w/.]+:(\w+)", word) for word in words)  # on data that may not be here
    if name(module) == "main" and prepared and "--help" not in words:
        words.append("--dry-run")
    if name(module) == "sweep" and not any(
        word.startswith(("--list", "--cost", "--index")) for word in words
    ):  # test_sweep.py has a small one
        words = [word for word in words if word != "--report"] + ["--dry-run"]
    if name(module) == "benchmark" and "--model" not in words:
        words += ["--seconds=0.05", *(["--small", "--minutes=14"] if "gpu" in words else [])]
    if name(module) == "prepare_data" and not {"--from-tfrecord", "check"} & set(words):  # downloads nothing
        words.append("--check")
    return [module, *dict.fromkeys(words)]


def tier(command):
    """Returns the marker of a command: what only looks is tested with every commit, what trains or needs it nightly."""
    looks = {"--help", "--list", "--print_config", "--dry-run", "--check", "--model", "check", "--from-tfrecord"}
    words = command.split()
    line = words if words[0] == "pip" or words[:2] == ["python", "-c"] else shortened(*as_module(words))
    quick = looks & set(line) or words[0] == "pip" or line[0] == "cnn_jax.summary" or words == ["cnn_jax", "--help"]
    return pytest.mark.slow if quick else pytest.mark.nightly


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all commands: later ones read what earlier ones wrote."""
    made = tmp_path_factory.mktemp("readme")
    for each in ("configs", "experiments"):
        (made / each).symlink_to(ROOT / each)
    return made


# What belongs to the reader -> what a command says where it is missing.
MISSING = {
    "cnn_jax data": "is not prepared",
    "sweep --index": "has the answers.json of a report",
    "resnet50.safetensors": "no file 'resnet50.safe",
    "runs/mine": "runs/mine",
    "predict photos": "photos",
    "faces/new": "faces",
}


def refusal(command):
    """Returns what a command of the reader's own files or data says where these are not, or None."""
    return next((message for part, message in MISSING.items() if part in command), None)


@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=tier(command), id=command) for command in commands() if command != "pytest"]
)
def test_command_does_what_it_says(command, folder):
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:  # the test runs inside what it installs
        assert words[2] == "-e" and re.fullmatch(r"\.(\[\w+\])?", words[3])
        assert words[3] == "." or words[3][2:-1] in EXTRAS
        return
    if words[:2] == ["python", "-c"]:
        result = process(*words[1:], cwd=folder)
        assert 0.70 < float(result.stdout) < 0.72 if "linear" in command else (folder / "digit2.png").exists(), result
        return
    module, *words = shortened(*as_module(words))
    if name(module) == "prepare_data":
        words.append(f"--dir={folder}")  # where there is nothing
    files = [
        sorted(path.name if "/" not in word else str(path.relative_to(folder)) for path in folder.glob(word))
        if "*" in word
        else [word]
        for word in words
    ]
    result = process("-m", module, *itertools.chain.from_iterable(files), cwd=folder, timeout=900)
    said = f"{result.stdout}\n{result.stderr}"
    flags = [word.partition("=")[0] for word in words]
    keys = (*(f"{name(module)} {word}" for word in words), *flags, name(module))
    if message := refusal(command):
        assert (result.returncode, message in result.stderr) == (2, True), said
        return
    data_set = re.search(r"(?:--config=[\w/.]+:|--data=)(\w+)", command)
    if data_set and result.returncode == 2:
        absent = {"folder": "there is no such folder", "table": "there is no such file"}
        missing = absent.get(data_set[1], f"{data_set[1]!r} is not prepared")
        assert missing in result.stderr, said
        return
    assert result.returncode == 0, said
    if name(module) == "predict":
        shown = "84 features of 3 pictures" if "--features" in words else f"```text\n{result.stdout}```"
        assert shown in (result.stdout if "--features" in words else "".join(PAGES.values())), said
    elif known := [PRINTED[key] for key in keys if key in PRINTED]:
        assert known[0] in result.stdout, said
    elif "--dry-run" not in words:
        accuracy = float(re.search(r"^(?:test|ensemble) +[\d,]+ +([\d.]+)%", result.stdout, re.M)[1])
        least = {"--data=cifar10": 81, "--regime=head": 90, "lenet5": 97}
        assert accuracy >= next((value for part, value in least.items() if part in command), 95), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if "```python\n" in text and "extending" not in page]
)
def test_python_examples_print_what_is_below_them(page):
    examples = re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", PAGES[page], re.M | re.S)
    assert len(examples) == len(blocks("python", PAGES[page])) > 0  # those of extending.md: training/test_extension.py
    for code, output in examples:
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.stdout == output, result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_point_to_files_and_headings(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path
        if path in ("fields.md", "commands/index.md", "networks/index.md"):  # made when the site is built
            continue
        assert target.exists(), link
        text = target.read_text(encoding="utf-8") if heading else ""
        assert not heading or heading in headings(text), link


def headings(text):
    """Returns the anchors of a page's headings, as GitHub and the site name them."""
    found = []
    for line in re.findall(r"^#+ (.*)$", text, re.M):
        words, _, name = line.partition(" { #")
        found.append(name.removesuffix(" }") or re.sub(r"[^\w\- ]", "", words).lower().strip().replace(" ", "-"))
    return found


def test_readme_is_a_page():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def test_readme_shows_the_measured_medians():
    """The table of the README and that of docs/results.md have the same accuracies."""
    shown = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", README, re.M))
    rows = [
        line.split(" | ") for line in PAGES["docs/results.md"].splitlines() if line.endswith("--config.seed=SEED |")
    ]
    assert {name: float(value) for name, value in shown.items()} == {
        row[0].removeprefix("| "): float(row[8]) for row in rows
    }


def test_every_network_has_an_idea_for_its_page():
    ideas = tomllib.loads((ROOT / "docs" / "site" / "networks.toml").read_text(encoding="utf-8"))
    assert set(ideas) == set(MODELS)
    assert all(idea.keys() >= {"title", "source", "idea"} for idea in ideas.values())


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="the site needs pip install -e '.[docs]'")
    built = process("-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", tmp_path, timeout=900)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(tmp_path) for path in tmp_path.rglob("index.html")}
    assert {Path("networks", name, "index.html") for name in MODELS} <= pages
    assert {Path("commands", name, "index.html") for name in COMMANDS} <= pages
    fields = (tmp_path / "fields" / "index.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in fields for name in FIELDS)
    for path in tmp_path.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="(?!https?:|#|data:|mailto:)([^"#?]+)', path.read_text(encoding="utf-8")):
            target = tmp_path / link.lstrip("/") if path.name == "404.html" else path.parent / link
            assert target.exists(), f"{path}: {link}"
