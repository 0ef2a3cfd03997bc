"""Trains a network that starts from a trained one.

python -m cnn_jax.finetune --config=configs/finetune.py:resnet50,folder --checkpoint=runs/mine --config.data.dir=photos
python -m cnn_jax.finetune --config=configs/finetune.py:lenet5,mnist,head --checkpoint=runs/lenet5@best

It sets config.init_from and the fields that the trained network settles, and then it is the same training: with the
config.json that it writes, `cnn_jax.main` makes the same run.
"""

from absl import flags

from cnn_jax.config import commandline
from cnn_jax.config.commandline import SOURCES, given_changes, launch, needed_config
from cnn_jax.core.errors import check
from cnn_jax.training import training_flags
from cnn_jax.training.training_flags import session, train

# jax is imported by start(), so that --help answers at once.

flags.adopt_module_key_flags(commandline)  # --help shows --config
flags.adopt_module_key_flags(training_flags)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The trained network to start from: {SOURCES}.")


def start() -> None:
    """Runs what the flags say."""
    config = needed_config()
    given = _CHECKPOINT.value or config.init_from
    check(
        bool(_CHECKPOINT.value) != bool(config.init_from),
        "name the trained network to start from, once: --checkpoint=SOURCE",
    )
    from cnn_jax.core import compilation_cache
    from cnn_jax.display import terminal
    from cnn_jax.parallel import collectives
    from cnn_jax.pretrained import source as pretrained
    from cnn_jax.training import finetuning

    with session() as stop:
        compilation_cache.enable()
        console = collectives.console()
        with terminal.waiting(console, "reading the trained network"):
            source = pretrained.open_source(given)
            first = collectives.decided(lambda: source.name)
            if first != source.name:  # its run goes on
                source = pretrained.open_source(first)
        for field, value in finetuning.adapt(
            config, source, {word.partition("=")[0] for word in given_changes()}
        ).items():
            terminal.say(console, f"config.{field} = {value!r}")
        train(config, source=source, stop=stop, name=f"finetune-{config.model.name}", console=console)


if __name__ == "__main__":
    launch(start)
