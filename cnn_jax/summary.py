"""Prints the layer table of a network, and networks side by side.

    python -m cnn_jax.summary --config=configs/resnet50.py:imagenet2012
    python -m cnn_jax.summary --config=configs/resnet50.py --format=csv
    python -m cnn_jax.summary --config=configs/resnet50.py --compare=configs/resnet18.py --plot=layers.png
    python -m cnn_jax.summary --config=configs/resnet50.py:imagenet2012 --compare="model.head=fc"

All numbers are for one image; `cnn_jax.analysis.layer_table` says what counts. No data set is opened.
"""

import json
from pathlib import Path

from cnn_jax.analysis.layer_sheets import as_json, bars, comparison, network, sheets, trace
from cnn_jax.core.errors import check
from cnn_jax.display.tables import FORMS, render

# jax is imported by the functions, so that --help answers at once.

if __name__ == "__main__":
    from absl import flags

    from cnn_jax.config import commandline
    from cnn_jax.core.errors import StorageError
    from cnn_jax.display import plots
    from cnn_jax.training.config_check import check_config

    flags.adopt_module_key_flags(commandline)  # --help shows --config
    _FORMAT = flags.DEFINE_enum("format", "text", [*FORMS, "json"], "What to print.")
    _COMPARE = flags.DEFINE_multi_string(
        "compare",
        [],
        'Another network beside that of --config: "[FILE[:DATASET]] [FIELD=VALUE ...]"; repeatable.',
    )
    _PLOT = flags.DEFINE_string("plot", None, "PNG file to draw parameters and MACs of each layer in.")

    def start() -> None:
        """Runs what the flags say."""
        config = commandline.needed_config()
        check(
            _PLOT.value is None or _PLOT.value.endswith(".png"),
            f"--plot is {_PLOT.value!r}, but must be a file that ends in .png",
        )
        check_config(config)
        networks = [network(config, trace(config), commandline.given_changes())]
        for text in _COMPARE.value:
            other, changes = commandline.other_config(config, text, flag="--compare")
            check_config(other)
            networks.append(network(other, trace(other), changes))
        if _FORMAT.value == "json":
            print(json.dumps(as_json(networks), indent=1))
        else:
            print(render(comparison(networks) if _COMPARE.value else sheets(networks[0]), _FORMAT.value), end="")
        if _PLOT.value:
            try:
                plots.plot_layers({one.label: bars(one.rows) for one in networks}, Path(_PLOT.value))
            except OSError as error:
                raise StorageError(f"--plot: {_PLOT.value!r} cannot be written: {error.strerror or error}") from None

    commandline.launch(start)
