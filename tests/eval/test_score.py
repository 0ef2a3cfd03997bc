"""Any network on any data: labels follow the names of the classes, folders need no training part."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.data.splits import Splits
from cnn_jax.eval import metrics, score
from cnn_jax.pretrained.predictor import Predictor
from cnn_jax.pretrained.source import open_source


@pytest.fixture(scope="module")
def lenet():
    return open_source("bundled:lenet5-digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders "0" to "9" of 60 test digits in all; the files say which they are."""
    top = tmp_path_factory.mktemp("digits")
    examples = Splits(recipes.get_config("lenet5").data, 0).parts["test"].source.read(range(60))
    for i, example in enumerate(examples):
        (top / str(example["label"])).mkdir(exist_ok=True)
        Image.fromarray(example["image"][..., 0]).save(top / f"{example['label']}/{i}.png")
    return top


def predict(source, data, *overrides, part="test"):
    return score.predict(source, score.configuration(source, str(data), overrides).config, part)


def test_class_folders_alone_are_one_test_part(lenet, folder):
    found = predict(lenet, folder)
    assert list(found) == ["test"] and found["test"].protocol == "whole"
    test = found["test"]
    files = sorted(folder.glob("*/*.png"))
    assert [test.name(i) for i in range(60)] == [str(file) for file in files]
    assert [test.class_names[label] for label in test.labels] == [file.parent.name for file in files]
    expected = Predictor(lenet).probabilities(files)
    np.testing.assert_allclose(test.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert metrics.accuracy(*test.known) > 0.9


def test_labels_follow_the_names_of_classes(lenet, folder):
    order = np.random.default_rng(0).permutation(10)
    head = {name: value[..., order] for name, value in lenet.leaves.items() if name.startswith("head/classifier/")}
    assert len(head) == 2
    names = [str(k) for k in order]
    other = replace(lenet, leaves=lenet.leaves | head, input=dict(lenet.input) | {"classes": names})
    here, there = predict(lenet, folder)["test"], predict(other, folder)["test"]
    assert there.class_names == names and not np.array_equal(here.labels, there.labels)
    np.testing.assert_allclose(there.probabilities, here.probabilities[:, order], rtol=1e-5, atol=1e-7)
    assert metrics.accuracy(*there.known) == metrics.accuracy(*here.known)
    scored = score.score(other, str(folder))
    assert 1 - scored["error"] == pytest.approx(metrics.accuracy(*here.known))


def test_data_may_have_fewer_classes_than_the_network(lenet, folder, tmp_path):
    for name in ("3", "7"):
        (tmp_path / name).symlink_to(folder / name)
    found = predict(lenet, tmp_path)["test"]
    assert found.probabilities.shape[1] == 10 and set(found.labels) == {3, 7}


def test_classes_of_other_names_are_one_message(lenet, folder, tmp_path):
    (tmp_path / "seven").symlink_to(folder / "7")
    with pytest.raises(UserError, match=r"10 classes apart \(0, 1, .*has 1 \(seven, "):
        predict(lenet, tmp_path)
    twice = replace(lenet, input=dict(lenet.input) | {"classes": ["0", "0", *map(str, range(2, 10))]})
    (tmp_path / "seven").unlink()
    (tmp_path / "0").symlink_to(folder / "0")
    with pytest.raises(UserError, match="several classes called 0"):
        predict(twice, tmp_path)


def test_pictures_that_cannot_be_read_are_left_out(lenet, folder, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "a.png").write_bytes(b"no picture")
    for i, file in enumerate(sorted((folder / "3").iterdir())):
        (tmp_path / "3" / f"b{i}.png").symlink_to(file)
    with pytest.raises(UserError, match=r"a\.png"):
        predict(lenet, tmp_path)
    found = predict(lenet, tmp_path, "data.on_error=skip")["test"]
    assert found.labels[0] == -1 and set(found.known[0]) == {3} and len(found.read) == len(found.labels) - 1


def test_the_validation_part_comes_with_the_test_part(lenet):
    found = predict(lenet, "digits")
    assert {part: len(one.labels) for part, one in found.items()} == {"test": 359, "validation": 180}
    assert list(predict(lenet, "digits", part="validation")) == ["validation"]


@pytest.mark.slow
def test_every_protocol_sees_every_example_once(lenet, folder):
    single = predict(lenet, folder)["test"]
    for protocol in ("flip", "10-crop"):
        found = predict(lenet, folder, f"eval.protocol={protocol}", "data.test_resize=32")["test"]
        assert protocol.split("-")[0].replace("flip", "flipped") in found.protocol
        np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
        assert np.array_equal(found.labels, single.labels)
        assert np.abs(found.probabilities - single.probabilities).max() > 0.05


def test_invalid_data_is_one_message(lenet, folder):
    with pytest.raises(UserError, match="there is no such folder"):
        score.configuration(lenet, "./nowhere")
    with pytest.raises(UserError, match="--data is empty"):
        score.configuration(lenet, "")
    with pytest.raises(UserError, match="part is 'train', but 'folder' has test"):
        predict(lenet, folder, part="train")
    with pytest.raises(UserError, match="channels comes with bundled:lenet5-digits"):
        predict(lenet, folder, "data.channels=3")
    with pytest.raises(UserError, match="must be one of single, flip"):
        predict(lenet, folder, "eval.protocol=flap")
