"""A program of test_storage: saves in a bucket and in a folder, and restores what one process saved there.

python tests/helpers/several_storage.py OUT BUCKET FOLDER COORDINATOR PROCESSES PROCESS
"""

import pickle
import sys
from pathlib import Path

from cnn_jax.checkpoint import bucket
from cnn_jax.config import recipes
from cnn_jax.parallel import collectives, processes
from cnn_jax.training.state import States

SPLIT = (".*", "data")  # every parameter over all devices


def get_config(*rules):
    config = recipes.get_config("lenet5")
    config.model.width, config.model.norm = 0.25, "batch"
    config.duration, config.batch_size, config.eval.batch_size = "4 steps", 32, 100
    config.eval.every = config.log.every = "4 steps"
    config.checkpoint.every = "2 steps"
    config.optim.schedule.warmup = "0 steps"
    config.mesh.rules = rules
    config.log.trackers = ""
    return config.lock()


def restored(url, *rules):
    """Returns the state of the latest checkpoint of a run."""
    from cnn_jax.checkpoint.manager import Checkpoints
    from cnn_jax.training.setup import build

    with bucket.opened(url) as here, Checkpoints(here, shared=isinstance(url, Path)) as checkpoints:
        at = collectives.decided(lambda: checkpoints.latest(print))
        return collectives.fetch(States(build(get_config(*rules))).restore(checkpoints, at))


if __name__ == "__main__":
    out, url, folder, coordinator, count, process = sys.argv[1:]
    with processes.session(coordinator, int(count), int(process), start_timeout=120):
        from cnn_jax.training import loop as train

        train.run(get_config(SPLIT), f"{url}/two")
        train.run(get_config(SPLIT), Path(folder))
        found = {
            "bucket": restored(f"{url}/two", SPLIT),
            "folder": restored(Path(folder), SPLIT),
            "one": restored(f"{url}/one", SPLIT),
        }
    (Path(out) / f"{process}.pickle").write_bytes(pickle.dumps(found))
