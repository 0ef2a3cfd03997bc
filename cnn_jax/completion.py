"""Prints the script with which a shell completes commands, flags, recipes and questions.

source <(cnn_jax completion bash)     in ~/.bashrc
source <(cnn_jax completion zsh)      in ~/.zshrc
"""

import importlib
import sys
from collections.abc import Sequence

from cnn_jax.config import cli
from cnn_jax.core.errors import check, check_choice

SHELLS = ("bash", "zsh")


def define(flags: cli.Flags) -> None:
    """It has no flags."""


def run(flags: cli.Flags, words: list[str]) -> None:
    check(len(words) == 1, f"name the shell: {' or '.join(SHELLS)}")
    check_choice("the shell", words[0], SHELLS)
    from cnn_jax.__main__ import COMMANDS
    from cnn_jax.config import completing

    print(completing.script(words[0], {name: flags_of(command.module) for name, command in COMMANDS.items()}))


def flags_of(module: str) -> list[str]:
    """Returns the flags of a command as one types them."""
    flags = cli.Flags()
    importlib.import_module(f"cnn_jax.{module}").define(flags)
    return [f"--{name}{'' if flags[name].boolean else '='}" for name in flags] + ["--help"]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax completion {bash,zsh}")


if __name__ == "__main__":
    sys.exit(main())
