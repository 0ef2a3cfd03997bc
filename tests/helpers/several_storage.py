"""A program of test_storage: saves in a bucket and in a folder, and restores what one process saved there.

python tests/helpers/several_storage.py OUT BUCKET FOLDER COORDINATOR PROCESSES PROCESS
"""

import pickle
import sys
from pathlib import Path

from cnn_jax.checkpoint import storage
from cnn_jax.config import recipes
from cnn_jax.parallel import distributed, together


def get_config(preset):
    config = recipes.get_config("lenet5")
    config.model.width, config.model.norm = 0.25, "batch"
    config.duration, config.batch_size, config.eval.batch_size = "4 steps", 32, 100
    config.eval.every = config.log.every = "4 steps"
    config.checkpoint.every = "2 steps"
    config.optim.schedule.warmup = "0 steps"
    config.mesh.preset = preset
    config.log.tensorboard = False
    return config.lock()


def restored(url, preset):
    """Returns the state of the latest checkpoint of a run."""
    from cnn_jax.checkpoint.manager import Checkpoints
    from cnn_jax.training.build import Run

    with storage.opened(url) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        at = together.decided(lambda: checkpoints.latest(print))
        return together.fetch(Run(get_config(preset)).restore(checkpoints, at))


if __name__ == "__main__":
    out, bucket, folder, coordinator, processes, process = sys.argv[1:]
    with distributed.session(coordinator, int(processes), int(process), start_timeout=120):
        from cnn_jax.training import loop as train

        train.run(get_config("fsdp"), f"{bucket}/two")
        train.run(get_config("fsdp"), Path(folder))
        found = {
            "bucket": restored(f"{bucket}/two", "fsdp"),
            "folder": restored(Path(folder), "fsdp"),
            "one": restored(f"{bucket}/one", "fsdp"),
        }
    (Path(out) / f"{process}.pickle").write_bytes(pickle.dumps(found))
