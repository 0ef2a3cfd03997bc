import numpy as np
from PIL import Image

from cnn_jax.display import plots
from cnn_jax.tracking.recorder import Recorder


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def has_color(path, color):
    return bool((pixels(path) == color).all(axis=-1).any())


def test_curves_are_drawn_from_the_record_alone(tmp_path):
    with Recorder(tmp_path, step=0, tensorboard=False) as recorder:
        for step in range(1, 5):
            recorder.write("train", step, step / 2, loss=1 / step, error=0.5 / step, learning_rate=0.1)
        path = plots.plot_curves(tmp_path)
        orange = (255, 127, 14)  # the colour of the validation curve
        assert pixels(path).shape == (900, 1200, 3)
        assert not has_color(path, orange)
        recorder.write("validation", 4, 2.0, loss=0.3, error=0.2)
        recorder.write("test", 4, 2.0, loss=0.3, error=0.25)
    assert has_color(plots.plot_curves(tmp_path), orange)
    assert [file.name for file in tmp_path.glob("*.png")] == ["curves.png"]


def test_curves_of_a_run_without_validation_or_with_a_loss_that_is_not_finite(tmp_path):
    with Recorder(tmp_path, step=0, tensorboard=False) as recorder:
        recorder.write("train", 1, 0.5, loss=1.0, error=0.9, learning_rate=0.1)
        recorder.write("train", 2, 1.0, loss=float("nan"), error=0.9, learning_rate=0.1)
    assert pixels(plots.plot_curves(tmp_path)).shape == (900, 1200, 3)


def test_a_confusion_matrix_colours_shares_of_the_true_class(tmp_path):
    path = plots.plot_confusion(np.diag([5, 500]), ["rare", "common"], tmp_path / "confusion.png")
    darkest = (8, 48, 107)  # the end of the colour map: both classes are all right, however rare
    assert (pixels(path) == darkest).all(axis=-1).mean() > 0.2
