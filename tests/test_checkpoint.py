import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoint import Checkpoints
from cnn_jax.errors import UserError


def tree(value):
    return {"list": {i: jnp.full((3,), value + i, jnp.float32) for i in range(12)}, "step": jnp.int32(value)}


def shapes(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def test_what_is_restored_is_what_was_saved_with_the_order_of_long_lists(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(5, tree(7), error=0.5)
    restored = Checkpoints(tmp_path).restore(5, shapes(tree(0)))
    assert jax.tree.structure(restored) == jax.tree.structure(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(7))


def test_a_relative_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with Checkpoints(Path("run")) as saved:
        saved.save(1, tree(1), error=None)
    assert Checkpoints(Path("run")).latest(print) == 1


def test_the_latest_and_the_best_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        for step, error in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None), (5, 0.4)):
            saved.save(step, tree(step), error=error)
    again = Checkpoints(tmp_path, keep=2)
    assert again.steps() == [2, 4, 5]
    assert again.select("best", print) == 2
    assert again.select("latest", print) == 5
    assert again.select("4", print) == 4


def test_a_step_without_validation_is_never_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=3) as saved:
        saved.save(1, tree(1), error=None)
        saved.save(2, tree(2), error=1.0)
        saved.save(3, tree(3), error=None)
    assert Checkpoints(tmp_path, keep=3).select("best", print) == 2


def test_a_save_is_not_touched_by_steps_that_donate_its_arrays(tmp_path):
    advance = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    with Checkpoints(tmp_path) as saved:
        state = {"x": jnp.zeros(3_000_000), "step": jnp.int32(0)}
        saved.save(0, state, error=None)
        for _ in range(20):
            state = advance(state)
    restored = Checkpoints(tmp_path).restore(0, shapes({"x": jnp.zeros(3_000_000), "step": jnp.int32(0)}))
    assert not np.asarray(restored["x"]).any()


@pytest.mark.parametrize(
    ("which", "message"),
    [("3", "must be latest, best or one of the steps 1, 2"), ("newest", "must be latest, best or one of")],
)
def test_a_checkpoint_that_is_not_there_is_an_error_with_those_that_are(tmp_path, which, message):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, tree(1), error=0.5)
        saved.save(2, tree(2), error=0.6)
        saved.wait()
        with pytest.raises(UserError, match=message):
            saved.select(which, print)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    empty = Checkpoints(tmp_path)
    assert empty.latest(print) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        empty.select("latest", print)


def test_another_network_does_not_fit(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, tree(1), error=None)
    other = {"step": jnp.int32(0), "other": jnp.zeros(4)}
    with pytest.raises(UserError, match="does not fit this configuration"):
        Checkpoints(tmp_path).restore(1, shapes(other))
    larger = tree(0) | {"list": {i: jnp.zeros(5) for i in range(12)}}
    with pytest.raises(UserError, match="does not fit this configuration"):
        Checkpoints(tmp_path).restore(1, shapes(larger))
