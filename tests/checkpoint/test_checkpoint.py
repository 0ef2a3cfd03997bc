import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.core.errors import StorageError, UserError


def tree(value):
    return {"list": {i: jnp.full((3,), value + i, jnp.float32) for i in range(12)}, "step": jnp.int32(value)}


def shapes(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def test_restoring_gives_what_was_saved_in_the_same_order(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(5, tree(7), error=0.5)
    restored = Checkpoints(tmp_path).restore(5, shapes(tree(0)))
    assert jax.tree.structure(restored) == jax.tree.structure(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(7))


def test_a_relative_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with Saver(Checkpoints(Path("run")), keep=1) as saved:
        saved.save(1, tree(1), error=None)
    assert Checkpoints(Path("run")).latest(print) == 1


def test_the_latest_and_the_best_stay(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=2) as saved:
        for step, error in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None), (5, 0.4)):
            saved.save(step, tree(step), error=error)
    again = Checkpoints(tmp_path)
    assert again.steps() == [2, 4, 5]
    assert again.select("best", print) == 2
    assert again.select("latest", print) == 5
    assert again.select("4", print) == 4


def test_a_step_without_validation_is_never_the_best(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=3) as saved:
        saved.save(1, tree(1), error=None)
        saved.save(2, tree(2), error=1.0)
        saved.save(3, tree(3), error=None)
    assert Checkpoints(tmp_path).select("best", print) == 2


def test_a_save_is_not_touched_by_steps_that_donate_its_arrays(tmp_path):
    advance = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
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
def test_a_missing_checkpoint_is_an_error_that_lists_the_others(tmp_path, which, message):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, tree(1), error=0.5)
        saved.save(2, tree(2), error=0.6)
        saved.wait()
        with pytest.raises(UserError, match=message):
            saved.checkpoints.select(which, print)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    empty = Checkpoints(tmp_path)
    assert empty.latest(print) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        empty.select("latest", print)


def test_another_network_does_not_fit(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, tree(1), error=None)
    other = {"step": jnp.int32(0), "other": jnp.zeros(4)}
    with pytest.raises(UserError, match="does not fit this configuration"):
        Checkpoints(tmp_path).restore(1, shapes(other))
    larger = tree(0) | {"list": {i: jnp.zeros(5) for i in range(12)}}
    with pytest.raises(UserError, match="does not fit this configuration"):
        Checkpoints(tmp_path).restore(1, shapes(larger))


# ---------------------------------------------------------------- integrity


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def data_file(checkpoint):
    """The file with most of the arrays."""
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


DAMAGES = {
    "has changed since it was saved": lambda folder: flip_a_bit(data_file(folder)),
    "bytes, but had": lambda folder: data_file(folder).write_bytes(data_file(folder).read_bytes()[:-1]),
    "is missing": lambda folder: data_file(folder).unlink(),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text('{"files": {"a": 1}}'),
    "does not belong to it": lambda folder: (folder / "state" / "zz").write_text("x"),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_an_earlier_used(tmp_path, words):
    with Saver(Checkpoints(tmp_path), keep=3) as saved:
        for step in (1, 2):
            saved.save(step, tree(step), error=0.1)
    DAMAGES[words](tmp_path / "checkpoints" / "2")
    checkpoints, said = Checkpoints(tmp_path), []
    assert checkpoints.select("latest", said.append) == 1
    assert len(said) == 1 and said[0].startswith("the checkpoint of step 2 is damaged: ") and words in said[0]
    with pytest.raises(StorageError, match="step 2 is damaged"):
        checkpoints.select("2", said.append)
    assert checkpoints.steps() == [1, 2]  # reading changes nothing
    assert checkpoints.latest(said.append, tidy=True) == 1
    assert checkpoints.steps() == [1] and (tmp_path / "checkpoints" / "2.damaged").is_dir()
    with Saver(checkpoints, keep=3) as saver:
        saver.save(2, tree(7), error=0.1)
        saver.wait()
        assert checkpoints.damage(2) is None
        assert checkpoints.restore(2, shapes(tree(0)))["step"] == 7


def test_a_flipped_bit_that_orbax_misses_is_noticed(tmp_path):
    """The reason for the manifest: if orbax ever notices this, the manifest can go."""
    state = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, state, error=None)
    flip_a_bit(data_file(tmp_path / "checkpoints" / "1"))
    damaged = Checkpoints(tmp_path)
    assert not np.array_equal(damaged.restore(1, shapes(state))["x"], state["x"])
    assert damaged.damage(1) is not None


def test_a_run_without_intact_checkpoints_does_not_start_anew(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, tree(1), error=None)
    flip_a_bit(data_file(tmp_path / "checkpoints" / "1"))
    for _ in range(2):
        with pytest.raises(StorageError, match=r"no checkpoint in .* is whole"):
            Checkpoints(tmp_path).latest(print, tidy=True)


def test_half_written_checkpoints_are_removed(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, tree(1), error=None)
    (tmp_path / "checkpoints" / "2.partial" / "state").mkdir(parents=True)
    assert Checkpoints(tmp_path).steps() == [1]
    assert Checkpoints(tmp_path).latest(pytest.fail, tidy=True) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_failed_save_is_an_error_of_the_next_call(tmp_path, monkeypatch):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        saved.save(1, tree(1), error=None)
        saved.wait()

        def full(path, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("cnn_jax.core.files.write_text", full)
        monkeypatch.setattr("cnn_jax.checkpoint.saver.PAUSES", (0.01,))
        saved.save(2, tree(2), error=None)
        with pytest.raises(StorageError, match="step 2 cannot be written; the earlier ones are whole: No space left"):
            saved.wait()
        assert [path.name for path in saved.checkpoints.folder.iterdir()] == ["1"]
        monkeypatch.undo()
        saved.save(2, tree(2), error=None)
    assert Checkpoints(tmp_path).select("latest", pytest.fail) == 2


def test_a_save_whose_files_are_removed_is_repeated(tmp_path, monkeypatch):
    said = []
    with Checkpoints(tmp_path) as checkpoints, Saver(checkpoints, keep=2, report=said.append) as saver:
        start = saver._start

        def removing(step, copy):
            started = start(step, copy)
            if not said:
                started[0].wait_until_finished()
                shutil.rmtree(started[1])
            return started

        monkeypatch.setattr(saver, "_start", removing)
        saver.save(3, tree(3), error=None)
        saver.wait()
        assert checkpoints.steps() == [3]
    assert len(said) == 1
    assert "3.0.partial was removed while the checkpoint was written to it; trying again in 0.5 s" in said[0]


def test_of_equal_errors_the_first_is_the_best(tmp_path):
    with Saver(Checkpoints(tmp_path), keep=1) as saved:
        for step, error in ((1, 0.3), (2, 0.1), (3, 0.1), (4, 0.2)):
            saved.save(step, tree(step), error=error)
    assert Checkpoints(tmp_path).steps() == [2, 4]
    assert Checkpoints(tmp_path).best_error() == 0.1
