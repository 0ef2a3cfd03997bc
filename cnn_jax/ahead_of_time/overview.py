"""A dated table of many networks, each on the data set of its paper, compiled for several targets."""

import datetime
import sys
from collections.abc import Sequence

from cnn_jax.ahead_of_time.compiling import compiler
from cnn_jax.ahead_of_time.examination import examine
from cnn_jax.ahead_of_time.report import comparison
from cnn_jax.ahead_of_time.targets import Target
from cnn_jax.config import recipes
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import UserError, check_choice
from cnn_jax.display.tables import Code, Sheet, render

# The data sets of the papers, instead of the bundled default.
DATA = {
    "imagenet2012": (
        *("alexnet", "zfnet", "vgg11", "vgg11_lrn", "vgg13", "vgg16c", "vgg16", "vgg19", "nin", "googlenet"),
        *("squeezenet1_0", "squeezenet1_1", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    ),
    "cifar10": ("nin_cifar", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202"),
    "mnist": ("lenet5", "lenet5_1998"),
}
# Its 400 blocks take minutes to compile.
LONGEST = ("resnet1202",)
NO_NETWORKS = ("finetune", "replay", "resnet50_slide")  # the last is another recipe of resnet50


def networks() -> list[str]:
    """Returns the names of all recipes of networks, except `LONGEST`."""
    return [name for name in recipes.names() if name not in (*NO_NETWORKS, *LONGEST)]


def recipe(name: str) -> str:
    """Returns RECIPE[:DATASET] of a network on the data of its paper."""
    data = next((data for data, names in DATA.items() if name in names), None)
    return f"{name}:{data}" if data else name


def write(targets: Sequence[Target], names: Sequence[str] | None, *, thorough: bool) -> str:
    """Returns the table of networks for targets in Markdown; progress goes to stderr.

    Raises:
      UserError: there is no such network.
    """
    chosen = list(names) if names else networks()
    for name in chosen:
        check_choice("--network", name, [*networks(), *LONGEST])
    rows, refused = [], []
    for target in targets:
        for name in chosen:
            print(f"{name} for {target.name}", file=sys.stderr, flush=True)
            try:
                config = Configuration.from_recipe(recipe(name)).config
                rows.append((recipe(name), examine(config, target, thorough=thorough)))
            except UserError as error:
                refused.append((recipe(name), target.name, str(error)))
    words = [
        *("cnn_jax preflight table", f"--for={','.join(target.name for target in targets)}"),
        *([f"--network={','.join(chosen)}"] if names else []),
        *(["--thorough"] if thorough else []),
    ]
    level = "as training compiles" if thorough else "TPUs at the quick level, whose times are too high"
    compilers = ", ".join(dict.fromkeys(map(compiler, targets)))
    parts = [
        "# Compiled ahead of time\n",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {compilers}, {level}; written by `{' '.join(words)}`. "
        "Nothing has run: times are estimates of the compiler, without communication.\n",
        render([comparison(rows)], "markdown"),
    ]
    if refused:
        headings = ("configuration", "target", "message")
        parts.append(render([Sheet("Refused", headings, [(Code(a), b, c) for a, b, c in refused])], "markdown"))
    return "\n".join(parts)
