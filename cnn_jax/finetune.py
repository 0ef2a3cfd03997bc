"""Trains a network that starts from a trained one.

python -m cnn_jax.finetune --config=configs/finetune.py:resnet50,folder --checkpoint=runs/mine --config.data.dir=photos
python -m cnn_jax.finetune --config=configs/finetune.py:lenet5,mnist,head --checkpoint=runs/lenet5@best

It sets config.init_from and the fields that the trained network settles, and then it is the same training: with the
config.json that it writes, `cnn_jax.main` makes the same run.
"""

import sys
import time
from pathlib import Path

from absl import flags

from cnn_jax import commandline, storage
from cnn_jax.commandline import SOURCES, given_changes, launch, needed_config
from cnn_jax.errors import check

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The trained network to start from: {SOURCES}.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")
_EXTEND = flags.DEFINE_bool("extend", False, "Allow a longer --config.duration than that of the run in --workdir.")


def start() -> None:
    """Runs what the flags say."""
    config = needed_config()
    workdir = storage.located("--workdir", _WORKDIR.value) if _WORKDIR.value else None
    check(
        bool(_CHECKPOINT.value) != bool(config.init_from),
        "name the trained network to start from, once: --checkpoint=SOURCE",
    )
    from rich.console import Console

    from cnn_jax import compilation_cache, pretrained, provenance, show, train, transfer

    compilation_cache.enable()
    console = Console()
    with show.waiting(console, "reading the trained network"):
        source = pretrained.open_source(_CHECKPOINT.value or config.init_from)
    given = {change.partition("=")[0] for change in given_changes()}
    for field, value in transfer.adapt(config, source, given).items():
        show.say(console, f"config.{field} = {value!r}")
    default = Path("runs") / f"finetune-{config.model.name}-{config.data.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    train.run(
        config,
        workdir or default,
        dry_run=bool(flags.FLAGS["dry-run"].value),
        extend=_EXTEND.value,
        console=console,
        began=commandline.BEGAN,
        arguments=provenance.without(sys.argv[1:], "workdir", "extend!"),
    )


if __name__ == "__main__":
    launch(start)
