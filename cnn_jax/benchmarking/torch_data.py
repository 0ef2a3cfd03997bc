"""torch's DataLoader on the same pictures with the same work: full decode, random resized crop, batches of uint8.

The transform gives the same numbers as torchvision's on Pillow images, so that only torch is needed. Its workers are
new processes (`spawn`), which import this module but not jax: forks of a process that has started jax can hang.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.core.errors import UserError, check


class FolderDataset:
    """A map-style data set: index -> (uint8 [H, W, 3] after torchvision's RandomResizedCrop, label)."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], size: Sequence[int]):
        self.files = files
        self.labels = labels
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return read(self.files[index], self.size), self.labels[index]


def read(path: str, size: Sequence[int]) -> Any:
    """Returns the picture in a file as torchvision.datasets.ImageFolder reads it, cropped, a tensor uint8 [H, W, 3]."""
    import torch  # pyright: ignore[reportMissingImports]

    with open(path, "rb") as file:
        picture = Image.open(file).convert("RGB")
    return torch.from_numpy(np.array(random_resized_crop(picture, size)))


def random_resized_crop(picture: Image.Image, size: Sequence[int]) -> Image.Image:
    """Returns what torchvision.transforms.RandomResizedCrop(size) does, with the same numbers of torch's generator."""
    import torch  # pyright: ignore[reportMissingImports]

    width, height = picture.size
    log_ratio: Any = torch.log(torch.tensor((3 / 4, 4 / 3)))
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1).item()
        aspect = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, size=(1,)).item())
            left = int(torch.randint(0, width - w + 1, size=(1,)).item())
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        top, left = (height - h) // 2, (width - w) // 2
    picture = picture.crop((left, top, left + w, top + h))
    return picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)


class Batches:
    """A batch sampler: yields the indices of the batches to read next."""

    def __init__(self) -> None:
        self.indices: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.indices)


def loader(part: Any, config: Any) -> tuple[Callable[[], None], Callable[[Any, int], float]]:
    """Returns torch's DataLoader with config.data.workers processes, as a contender: see `baselines`.

    Args:
      part: the `loader.Split` whose examples it reads in the same order.

    Raises:
      UserError: there is no PyTorch, or the data set is not a folder of pictures that training crops at random.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from torch.utils.data import DataLoader  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--against=torch needs PyTorch: pip install torch") from None
    data = config.data
    check(
        data.source == "folder"
        and data.train_crop == "random_resized"
        and not part.is_resident
        and data.interpolation == "bilinear",
        "--against=torch compares the data of a folder with config.data.train_crop 'random_resized', placement "
        f"'stream' and interpolation 'bilinear', but the source is {data.source!r}, train_crop {data.train_crop!r}, "
        f"placement {data.placement!r} and interpolation {data.interpolation!r}: measure --only=step, or name others",
    )
    source: Any = part.source
    dataset: Any = FolderDataset([source.name(i) for i in range(len(source))], source.labels.tolist(), data.image_size)
    sampler = Batches()
    # As many batches ahead as torch's default, 2 for each worker.
    batches = DataLoader(
        dataset,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]
        num_workers=data.workers,
        multiprocessing_context="spawn",
        persistent_workers=True,
        worker_init_fn=_one_thread,
    )
    done = 0

    def steps(_: Any, count: int) -> float:
        nonlocal done
        numbers = range(done, done + count)
        done += count
        sampler.indices = [
            part.order.indices(part.order.positions(number, config.batch_size)).tolist() for number in numbers
        ]
        for _ in batches:
            pass
        return 0.0

    torch.set_num_threads(1)
    return lambda: None, steps


def _one_thread(_: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
