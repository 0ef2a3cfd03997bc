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
    with Recorder(tmp_path, step=0) as recorder:
        for step in range(1, 5):
            recorder.write("train", step, step / 2, loss=1 / step, error=0.5 / step, learning_rate=0.1)
        path = plots.plot_curves(tmp_path)
        orange = (255, 127, 14)  # the color of the validation curve
        assert pixels(path).shape == (900, 1200, 3)
        assert not has_color(path, orange)
        recorder.write("validation", 4, 2.0, loss=0.3, error=0.2)
        recorder.write("test", 4, 2.0, loss=0.3, error=0.25)
    assert has_color(plots.plot_curves(tmp_path), orange)
    assert [file.name for file in tmp_path.glob("*.png")] == ["curves.png"]


def test_curves_without_validation_or_with_a_nonfinite_loss(tmp_path):
    with Recorder(tmp_path, step=0) as recorder:
        recorder.write("train", 1, 0.5, loss=1.0, error=0.9, learning_rate=0.1)
        recorder.write("train", 2, 1.0, loss=float("nan"), error=0.9, learning_rate=0.1)
    assert pixels(plots.plot_curves(tmp_path)).shape == (900, 1200, 3)


def test_a_confusion_matrix_colors_shares_of_the_true_class(tmp_path):
    path = plots.plot_confusion(np.diag([5, 500]), ["rare", "common"], tmp_path / "confusion.png")
    darkest = (8, 48, 107)  # the end of the color map: both classes are all right, however rare
    assert (pixels(path) == darkest).all(axis=-1).mean() > 0.2


def test_a_reliability_diagram_leaves_empty_bins_empty(tmp_path):
    counts = np.array([0, 0, 0, 100])
    confidence, accuracy = np.array([np.nan] * 3 + [0.9]), np.array([np.nan] * 3 + [0.6])
    path = plots.plot_reliability(counts, confidence, accuracy, tmp_path / "r.png", title="a $ network")
    picture = pixels(path)
    assert picture.shape == (1050, 900, 3)
    bar = (picture == (31, 119, 180)).all(axis=-1)  # of the accuracy: to the right of the legend, in the last quarter
    assert bar.any() and not bar[300:, :600].any()


def test_long_names_of_classes_leave_room_for_the_matrix(tmp_path):
    plots.plot_confusion(np.eye(12, dtype=int), [f"{k} " + "long" * 20 for k in range(12)], tmp_path / "confusion.png")
    darkest = (8, 48, 107)
    assert (pixels(tmp_path / "confusion.png") == darkest).all(axis=-1).mean() > 0.02


NAMES = ["$5 and $6", "a $x^{2$", "\\frac{", "caf\udce9", "a\x07"]


def test_class_names_are_not_read_as_mathematics(tmp_path, capsys):
    images = [[np.zeros((4, 4, 3), np.uint8)]]
    plots.plot_confusion(np.eye(len(NAMES), dtype=int), NAMES, tmp_path / "confusion.png")
    for name in NAMES:
        plots.plot_images(images, tmp_path / "i.png", title=name, columns=[name], names=[name], captions=[[name]])
    assert capsys.readouterr().err == ""


def test_powers_of_ten_are_still_set_as_such(tmp_path):
    figure, axis = plots.subplots(1)
    axis.plot([1, 2], [1e-6, 1e6])
    axis.set_yscale("log")
    plots.save(figure, tmp_path / "a.png")
    assert any(label.get_text().startswith("$") for label in axis.get_yticklabels())


def test_letters_that_no_font_has_give_one_line(tmp_path, capsys):
    plots.plot_confusion(np.eye(2, dtype=int), ["\U0001f9ff\U000e0021", "\u732b"], tmp_path / "confusion.png")
    err = capsys.readouterr().err
    assert "no font on this machine has" in err and err.count("\n") == 1


def test_a_font_that_has_the_letters_is_used(tmp_path, capsys, monkeypatch):
    default = plots._letters(None)
    monkeypatch.setattr(plots, "_letters", lambda file: default - {"\u03a9"} if file is None else default)
    plots._font_with.cache_clear()
    figure, axis = plots.subplots(1)
    title = axis.set_title("\u03a9")
    plots.save(figure, tmp_path / "a.png")
    assert capsys.readouterr().err == "" and len(title.get_fontfamily()) == 2


def test_plots_leave_pyplot_alone(tmp_path):
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    plots.plot_confusion(np.eye(2, dtype=int), ["a", "b"], tmp_path / "confusion.png")
    assert pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == before
