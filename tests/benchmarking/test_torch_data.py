"""The DataLoader that the benchmark compares with: torchvision's transform, and the same examples as ours."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax.benchmarking import measure, torch_data
from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.training.setup import build

torch = pytest.importorskip("torch")


@pytest.fixture
def run(tmp_path):
    random = np.random.default_rng(0)
    for part, name in (("train", "a"), ("train", "b"), ("val", "a")):
        (tmp_path / part / name).mkdir(parents=True)
        for i in range(10):
            noise = random.integers(0, 256, (5, 6, 3), np.uint8)
            Image.fromarray(noise).resize((60 + i, 50)).save(tmp_path / part / name / f"{i}.jpg")
    config = recipes.get_config("resnet18", "folder")
    config.model.width = 0.125
    config.batch_size = config.eval.batch_size = 4
    config.data.update(dir=str(tmp_path), image_size=(32, 32), workers=1)
    return build(config.lock())


@pytest.mark.parametrize("size", [(60, 50), (300, 10), (10, 300), (1, 1)])
def test_the_transform_is_that_of_torchvision(size):
    import torchvision_models

    torchvision_models.import_models()
    from torchvision.transforms import RandomResizedCrop

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(noise)
    theirs = RandomResizedCrop(24)
    for seed in range(20):
        torch.manual_seed(seed)
        expected = np.asarray(theirs(picture))
        torch.manual_seed(seed)
        np.testing.assert_array_equal(np.asarray(torch_data.random_resized_crop(picture, (24, 24))), expected)


def test_the_benchmark_compares_and_says_what_is_held(run, console):
    from cnn_jax.benchmarking import results

    result = measure.benchmark(run.config, only=["data"], against="torch", seconds=0.01, progress=console)
    assert list(result["images_per_second"]) == ["step", "data", "both", "evaluation", "fused", "torch data"]
    found = result["ratios"]["data/torch data"]
    assert 0 < found["min"] <= found["median"] <= found["max"]
    # 2 batches ahead and one being assembled, each of 4 images.
    assert result["stream"] == dict(workers=1, scaled_decoding=False, held_batches=3, held_bytes=3 * 4 * 32 * 32 * 3)
    results.print_result(result, console)
    assert "stream      1 workers, at most 3 batches = 36.9 kB read ahead" in console.file.getvalue()


def test_the_loader_has_our_examples_in_our_order(run, monkeypatch):
    seen = []

    class Loader:
        def __init__(self, dataset, batch_sampler, **_):
            self.sampler = batch_sampler

        def __iter__(self):
            for indices in self.sampler:
                seen.append(indices)
                yield np.zeros((4, 32, 32, 3)), None

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    _, steps = torch_data.loader(run.data.parts["train"], run.config)
    steps(None, 3)
    steps(None, 2)  # continues
    labels = [run.data.parts["train"].source.labels[indices].tolist() for indices in seen]
    assert labels == [batch["label"].tolist() for batch in run.data.parts["train"].train_batches(0, 5, 4)]


def test_what_cannot_be_compared_is_one_message(run, console):
    config = run.config.copy_and_resolve_references()
    with pytest.raises(UserError, match="--against=flax has nothing to compare with --only=data"):
        measure.benchmark(config, only=["data"], against="flax", seconds=0.01, progress=console)
    config.data.train_crop = "resize"
    with pytest.raises(UserError, match="train_crop 'resize'"):
        measure.benchmark(config, only=["data"], against="torch", seconds=0.01, progress=console)
