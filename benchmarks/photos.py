"""Images per second of training on photos that do not fit in memory, without any network.

    python benchmarks/photos.py

Makes JPEG files of 500 × 375 pixels with the spectrum of photos, then reads all of them in turn with:

- ``ours``: the streamed pipeline of a run; each image is rendered for a student of 128 px and a teacher of
  224 px, as normalized tensors;
- ``torchvision``: ``ImageFolder``, ``RandomResizedCrop`` and ``DataLoader`` for one network of 224 px, and
  ``torchvision 128`` for one of 128 px;
- ``decode``: PIL's decoding alone in the same number of processes, the limit of every pipeline.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm.data
from PIL import Image
from timing import machine, save
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from richkd.config.schema import AugmentConfig, DataConfig
from richkd.data.framing import Framing
from richkd.data.order import TrainingOrder
from richkd.data.sources import open_data
from richkd.data.stores import open_stores
from richkd.data.views import render_batch

WIDTH, HEIGHT, STUDENT, TEACHER = 500, 375, 128, 224
SCALE, BATCH, CLASSES = (0.35, 1.0), 64, 10
# Scenes that are rolled and mirrored into all images: a scene takes longer to make than a file.
SCENES = 40
MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD

Epoch = Callable[[], int]


def make_photos(folder: Path, images: int) -> float:
    """Write the files, in class folders; returns their mean size in bytes.

    The amplitude of a photo's spectrum falls with the frequency, and colors are correlated. Files are as
    large as those of ImageNet, about 110 kB.
    """
    random = np.random.default_rng(0)
    rows, cols = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, cols), 1 / WIDTH)
    scenes = []
    for _ in range(SCENES):
        shape = (3, *amplitude.shape)
        spectrum = (random.normal(size=shape) + 1j * random.normal(size=shape)) * amplitude
        planes = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
        planes = planes[:1] + 0.3 * planes
        planes = 127 + 55 * (planes - planes.mean()) / planes.std()
        scenes.append(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    sizes = []
    for number in range(images):
        shift = random.integers(0, (HEIGHT, WIDTH))
        pixels = np.roll(scenes[number % SCENES], shift, axis=(0, 1))
        path = folder / f"class-{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=88)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def ours(folder: Path, workers: int) -> Epoch:
    """The images of an epoch, rendered for both networks."""
    data = DataConfig(path=str(folder), test_fraction=0, val_fraction=0, in_memory_gb=0)
    augment = AugmentConfig(policy="random-resized-crop", scale=SCALE)
    splits = open_data(data).splits
    stores, augmentation = open_stores(splits, data, augment, Framing(STUDENT), [TEACHER], workers=workers)
    training, epochs = stores.training, iter(range(1000))
    assert training is not None

    def epoch() -> int:
        number, count = next(epochs), 0
        groups = TrainingOrder(len(splits["train"]), BATCH, seed=0).epoch(number)
        views = [augmentation.draw(0, number, index_B) for index_B in groups]
        for batch, view in zip(training.batches(groups, views), views, strict=True):
            for size in (STUDENT, TEACHER):
                rendered = render_batch(batch, view, size, MEAN, STD)
            count += len(rendered)
        return count

    return epoch


def torchvisions(folder: Path, workers: int, size: int) -> Epoch:
    """The images of an epoch for one network."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=SCALE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(folder), transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )
    return lambda: sum(len(pixels) for pixels, _ in loader)


class Decoded(Dataset[int]):
    """Decodes a file and returns only its number."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> int:
        with Image.open(self.files[index]) as image:
            image.convert("RGB")
        return index


def decoding(folder: Path, workers: int) -> Epoch:
    """All files, decoded and forgotten."""
    loader: Any = DataLoader(
        Decoded(folder), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    return lambda: sum(len(numbers) for numbers in loader)


def rates(contenders: dict[str, Epoch], rounds: int) -> Iterator[tuple[str, float]]:
    """Median images per second of each contender. They take turns; the first pass of each does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, epoch in contenders.items():
            began = time.perf_counter()
            images = epoch()
            if round_number:
                speeds[name].append(images / (time.perf_counter() - began))
    for name, measured in speeds.items():
        yield name, median(measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/photos.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, workers = Path(temporary), arguments.workers
        bytes_per_file = make_photos(folder, arguments.images)
        contenders = {
            "ours": ours(folder, workers),
            "torchvision": torchvisions(folder, workers, TEACHER),
            "torchvision 128": torchvisions(folder, workers, STUDENT),
            "decode": decoding(folder, workers),
        }
        measured = dict(rates(contenders, arguments.rounds))
    ratios = {f"ours ÷ {name}": measured["ours"] / rate for name, rate in measured.items() if name != "ours"}
    for name, rate in measured.items():
        print(f"{name:16} {rate:7,.0f} images/s")
    for name, ratio in ratios.items():
        print(f"{name:24} {ratio:.2f}")
    facts = {"images": arguments.images, "workers": workers, "bytes per file": round(bytes_per_file)}
    save(arguments.out, {"machine": machine(), **facts, "images/s": measured, "ratios": ratios})


if __name__ == "__main__":
    main()
