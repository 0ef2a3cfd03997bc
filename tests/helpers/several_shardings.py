"""A program of tests/parallel/test_mesh.py, on as many devices as XLA_FLAGS force.

python tests/helpers/several_shardings.py FOLDER PART
"""

import pickle
import sys
from pathlib import Path

import jax

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.config import recipes
from cnn_jax.parallel import collectives
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.setup import build
from cnn_jax.training.state import States

RULES = (("conv1/.*kernel", (None, None, None, "data")), ("head/.*", "model"))
MESHES = {
    "replicated": (1, ()),
    "fc": (2, ()),
    "fsdp": (1, ()),
    "replicated and rules": (2, RULES),
    "replicated in bfloat16": (1, ()),
    "fsdp in bfloat16": (1, ()),
}
REFERENCES = ("replicated", "replicated in bfloat16")


def get_run(name):
    config = recipes.get_config("lenet5")
    config.model.width, config.model.norm, config.ema_decay = 4.0, "batch", 0.9
    config.batch_size, config.eval.batch_size = 16, 80
    config.duration, config.optim.schedule.warmup = "6 steps", "0 steps"
    config.data.augment = ("pad_crop:2",)
    config.mesh.preset = name.split()[0]
    config.precision = "bfloat16" if "in bfloat16" in name else "float32"
    config.mesh.model, config.mesh.rules = MESHES[name]
    return build(config.lock())


def train(setup, state, start, stop):
    """Returns the state after the steps start+1 .. stop; its sums are those of these steps."""
    train_step, images = setup.train_step(States(setup).shardings), setup.resident("train")
    for batch in setup.data.parts["train"].train_batches(start, stop, setup.config.batch_size):
        state = train_step(state, setup.put(batch), images)
    return state


def save(folder, step, state):
    with Checkpoints(folder) as checkpoints, Saver(checkpoints, keep=1) as saver:
        saver.save(step, state, error=None)


def on_eight(folder):
    """Four steps on each mesh, and two more on the first."""
    found = {}
    for name in MESHES:
        setup = get_run(name)
        state = train(setup, States(setup).create(), 0, 4)
        shards = [[shard.data.nbytes for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(state)]
        found[name] = {
            "state": collectives.fetch(state),
            "promised": States(setup).bytes(),
            "bytes": [sum(sizes) for sizes in zip(*shards, strict=True)],
            "specs": [str(leaf.sharding.spec) for leaf in jax.tree.leaves(state)],
            "expected": [str(where.spec) for where in jax.tree.leaves(States(setup).shardings)],
        }
        if name != "replicated":
            found[name]["test"] = Evaluator(setup).evaluate(state, "test")
        save(folder / name, 4, state)
        if name == "replicated":
            found["longer"] = collectives.fetch(train(setup, state, 4, 6))
    return found


def on_two(folder):
    """Resumes from what eight devices saved under one rule, under another rule."""
    setup = get_run("fc")
    with Checkpoints(folder / "fsdp") as checkpoints:
        state = States(setup).restore(checkpoints, 4)
    restored = collectives.fetch(state)
    state = train(setup, state, 4, 6)
    save(folder / "two", 6, state)
    return {"restored": restored, "longer": collectives.fetch(state)}


if __name__ == "__main__":
    folder, part = Path(sys.argv[1]), sys.argv[2]
    (folder / f"{part}.pickle").write_bytes(pickle.dumps({"on_eight": on_eight, "on_two": on_two}[part](folder)))
