"""cnn_jax COMMAND ...: all commands under one name."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_jax import __version__
from cnn_jax.core import large_arrays
from cnn_jax.core.errors import near


@dataclass(frozen=True)
class Command:
    """module: of cnn_jax, whose `main` it is. line: what it does."""

    module: str
    line: str


COMMANDS = {
    "train": Command("main", "train a network by a recipe"),
    "finetune": Command("finetune", "train a network that starts from a trained one"),
    "evaluate": Command("evaluate", "evaluate a run, or the average of several"),
    "predict": Command("predict", "name what pictures show, or write their features"),
    "visualize": Command("visualize", "draw filters, feature maps, class activation maps, augmented examples"),
    "summary": Command("summary", "print the layer table of a network, or compare networks"),
    "export": Command("export", "write a trained network to one file"),
    "report": Command("report", "make tables of finished runs"),
    "sweep": Command("sweep", "answer a question with many runs"),
    "benchmark": Command("benchmark", "measure speed, memory and scaling"),
    "preflight": Command("preflight", "compile for TPUs or GPUs that you do not have: what fits, how fast"),
    "data": Command("prepare_data", "prepare a data set, or check one"),
    "completion": Command("completion", "print the completion script for bash or zsh"),
}

# What `cnn_jax` alone shows: what to try, and what for.
EXAMPLES = {
    "train on bundled digits": "cnn_jax train --config=lenet5",
    "train on your photos": "cnn_jax train --config=resnet50:folder --config.data.dir=photos",
    "fine-tune a trained network": "cnn_jax finetune bundled:lenet5-mnist --data=digits --regime=head",
    "name what pictures show": "cnn_jax predict photos --checkpoint=bundled:resnet20-cifar10",
    "print a layer table": "cnn_jax summary --config=resnet50:imagenet2012",
    "plan an ablation": "cnn_jax sweep residual --dry-run",
}


def examples() -> str:
    """Returns what `cnn_jax` without arguments prints."""
    width = max(map(len, EXAMPLES.values()))
    return "\n".join(
        [
            "Classic convolutional networks in JAX. Six things to try:",
            "",
            *(f"  {command:{width}}  {purpose}" for purpose, command in EXAMPLES.items()),
            "",
            "`cnn_jax --help` lists all commands, `cnn_jax COMMAND --help` describes one.",
        ]
    )


def overview() -> str:
    """Returns the text of --help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.line}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cnn_jax COMMAND [flags]",
            "",
            "Classic convolutional networks in JAX.",
            "",
            *lines,
            "",
            "`cnn_jax COMMAND --help` describes a command, `cnn_jax --version` prints the version.",
            "Begin with: cnn_jax train --config=resnet50",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        print(examples())
        return 0
    name, *rest = words
    if name in ("--help", "-h", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"cnn_jax {__version__}")
        return 0
    if name not in COMMANDS:
        hint = near(name, COMMANDS) or f": there are {', '.join(COMMANDS)}"
        print(f"error: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    if argv is None:
        large_arrays.restart_with()
    return importlib.import_module(f"cnn_jax.{COMMANDS[name].module}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
