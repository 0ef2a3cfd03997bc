import importlib.util
import runpy
from pathlib import Path

import pytest

from cnn_jax.pretrained.class_names import imagenet, words


def test_imagenet_has_torchvisions_names():
    names = imagenet()
    assert len(set(names)) == 1000 and (names[0], names[207], names[999]) == (
        "tench",
        "golden retriever",
        "toilet tissue",
    )
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    theirs = runpy.run_path(str(Path(spec.origin).parent / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]
    assert list(names) == theirs


def test_numbers_of_imagenet_become_words_and_names_stay():
    numbers = [f"n{i:08d}" for i in range(1000)]
    assert words(None, 1000) == words(numbers, 1000) == list(imagenet())
    assert words(numbers[::-1], 1000) == numbers[::-1]  # another order is not known
    assert words(None, 3) == ["0", "1", "2"] and words(("a", "b"), 2) == ["a", "b"]
    other = [f"class {i}" for i in range(1000)]
    assert words(other, 1000) == other
