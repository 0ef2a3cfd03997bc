"""A program of test_distributed: trains, evaluates, saves, and restores what the other layouts have saved.

python tests/helpers/several_training.py FOLDER LAYOUT [COORDINATOR PROCESSES PROCESS]
"""

import contextlib
import pickle
import sys
import time
from pathlib import Path

from cnn_jax.config import recipes
from cnn_jax.parallel import collectives, processes
from cnn_jax.training import evaluate_run
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.state import States

LAYOUTS = ("one", "four", "two_by_two")  # devices: 1, 4, 2 processes with 2 each
PLACEMENTS = ("device", "stream")


def get_config(placement):
    config = recipes.get_config("lenet5")
    config.model.width, config.model.norm, config.model.dropout = 0.25, "batch", 0.1
    config.duration, config.batch_size, config.eval.batch_size = "5 steps", 32, 100
    config.eval.every = config.checkpoint.every = "5 steps"
    config.log.every = "1 steps"
    config.optim.schedule.warmup = "0 steps"
    config.data.augment = ("pad_crop:2",)
    config.data.placement = placement
    if placement == "stream":
        config.data.mean, config.data.std, config.data.train_crop = (0.3,), (0.4,), "random_resized"
        config.accumulation, config.ema_decay = 2, 0.9
        config.eval.recompute_statistics, config.eval.train_part = 2, True
        config.optim.schedule.name, config.optim.schedule.patience = "plateau", 1
        config.eval.every = "2 steps"
        config.loss, config.class_weights = "focal", "balanced"
    config.log.trackers = ""
    return config.lock()


def run(folder, layout):
    """Returns ({placement: final metrics}, {layout: (state, metrics of the test part)} of what was restored)."""
    from cnn_jax.checkpoint.manager import Checkpoints
    from cnn_jax.training import loop as train
    from cnn_jax.training.setup import build

    final = {placement: train.run(get_config(placement), folder / placement / layout) for placement in PLACEMENTS}
    evaluate_run.evaluate_run(get_config("device"), folder / "device" / layout, "latest")
    restored, this = {}, build(get_config("device"))
    for other in LAYOUTS:
        saved = folder / "device" / other
        until = time.monotonic() + 200
        while not (saved / "metrics.jsonl").exists() or '"test"' not in (saved / "metrics.jsonl").read_text():
            assert time.monotonic() < until, f"{saved} is not ready"
            time.sleep(0.1)
        with Checkpoints(saved) as checkpoints:
            state = States(this).restore(checkpoints, checkpoints.latest(print))
        restored[other] = (collectives.fetch(state), Evaluator(this).evaluate(state, "test"))
    return final, restored


if __name__ == "__main__":
    folder, layout, *place = sys.argv[1:]
    numbers = [place[0], int(place[1]), int(place[2])] if place else []
    with processes.session(*numbers, start_timeout=120) if numbers else contextlib.nullcontext():
        found = run(Path(folder), layout)
    name = f"{layout}{place[2] if place else ''}"
    (Path(folder) / f"{name}.pickle").write_bytes(pickle.dumps(found))
