"""Batches of source pixels: decoded once into memory if they fit, else decoded by worker processes.

The order of images is a function of (seed, epoch). An epoch can therefore be resumed at any step, and the
numbers of workers and processes do not change the images of a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from richkd.core.errors import DataError
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch
from richkd.data.images import decode_all, square
from richkd.data.split import Split

BYTES_PER_GB = 1 << 30
# Rows that are read at a time for a fingerprint.
FINGERPRINT_ROWS = 1000


class Store(Protocol):
    """The images of a split as square uint8 source pixels, read in batches by index.

    Example:
        >>> import datasets
        >>> cells = [{"bytes": b"", "path": None}] * 2
        >>> rows = datasets.Dataset.from_dict({"image": cells})
        >>> split = Split("train", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> store: Store = Resident(split, 8, torch.zeros((2, 8, 8, 3), dtype=torch.uint8))
        >>> [batch.labels_B.tolist() for batch in store.batches([torch.tensor([1, 0])])]
        [[1, 0]]
    """

    @property
    def split(self) -> Split: ...

    @property
    def size(self) -> int: ...

    def batches(self, groups: list[Tensor]) -> Iterator[Batch]:
        """One batch for each tensor of image indices.

        Raises:
            DataError: an image cannot be read; the message contains its key.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the source pixels and their order, or of the files that they are decoded from."""
        ...


@dataclass(frozen=True)
class Resident:
    """All images of a split as one uint8 tensor on the training device; a batch is one gather operation.

    Args:
        split: the images.
        size: height and width of the source images in pixels.
        pixels_NHWC: uint8 source pixels.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 2})
        >>> split = Split("train", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> pixels_NHWC = torch.tensor([10, 20], dtype=torch.uint8)[:, None, None, None].expand(2, 4, 4, 3)
        >>> (batch,) = Resident(split, 4, pixels_NHWC).batches([torch.tensor([1])])
        >>> batch.pixels_BHWC[0, 0, 0].tolist(), batch.labels_B.tolist()
        ([20, 20, 20], [1])
    """

    split: Split
    size: int
    pixels_NHWC: Tensor

    def batches(self, groups: list[Tensor]) -> Iterator[Batch]:
        for index_B in groups:
            labels_B = self.split.labels_N[index_B]
            yield Batch(self.split.name, index_B, self.pixels_NHWC[index_B], labels_B)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.pixels_NHWC.shape)).encode())
        digest.update(self.pixels_NHWC.cpu().numpy().data)
        return digest.hexdigest()


class _Decoded(Dataset[Tensor | DataError]):
    def __init__(self, split: Split, size: int) -> None:
        self.split, self.size = split, size

    def __getitem__(self, index: int) -> Tensor | DataError:
        # An error that is raised in a worker would be shown with the stack trace of that worker.
        try:
            return torch.from_numpy(np.array(square(self.split.read(index), self.size)))
        except DataError as error:
            return error


def _stack(images: list[Tensor | DataError]) -> Tensor | DataError:
    error = next((image for image in images if isinstance(image, DataError)), None)
    return error or torch.stack([image for image in images if isinstance(image, Tensor)])


@dataclass(frozen=True)
class Streamed:
    """Images that worker processes decode when they are needed.

    Args:
        split: the images.
        size: height and width of the source images in pixels.
        workers: number of processes; 0 decodes in the main process.

    Example:
        >>> import datasets
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> split = as_split(rows, "train", "example")
        >>> [list(batch.pixels_BHWC.shape) for batch in Streamed(split, 4, 0).batches(in_order(2, 2))]
        [[2, 4, 4, 3]]
    """

    split: Split
    size: int
    workers: int

    def batches(self, groups: list[Tensor]) -> Iterator[Batch]:
        loader = DataLoader(
            _Decoded(self.split, self.size),
            batch_sampler=[group.tolist() for group in groups],
            num_workers=self.workers,
            collate_fn=_stack,
        )
        for index_B, pixels_BHWC in zip(groups, loader, strict=True):
            if isinstance(pixels_BHWC, DataError):
                raise pixels_BHWC
            yield Batch(self.split.name, index_B, pixels_BHWC, self.split.labels_N[index_B])

    def fingerprint(self) -> str:
        """SHA-256 of path, size and modification time of files, and of the bytes of embedded images."""
        digest = hashlib.sha256(f"{len(self.split)} at {self.size}".encode())
        for start in range(0, len(self.split), FINGERPRINT_ROWS):
            stop = min(start + FINGERPRINT_ROWS, len(self.split))
            for key, cell in self.split.cells(start, stop):
                digest.update(key.encode())
                content, path = cell.get("bytes"), cell.get("path")
                if isinstance(content, bytes):
                    digest.update(hashlib.sha256(content).digest())
                else:
                    status = Path(str(path)).stat()
                    digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()


def open_store(
    split: Split,
    size: int,
    *,
    in_memory_gb: float = 4.0,
    workers: int = 2,
    device: torch.device | None = None,
) -> Store:
    """Open the images of a split at ``size`` × ``size`` pixels.

    Args:
        split: the images.
        size: height and width of the source images in pixels.
        in_memory_gb: largest size in GiB of the decoded pixels for a `Resident` store; `Streamed` above it.
        workers: number of decoding threads (resident) or processes (streamed).
        device: where resident pixels are kept; by default in CPU memory.

    Raises:
        DataError: some images cannot be read. Only resident images are read here.

    Example:
        >>> import datasets
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> split = as_split(rows, "train", "example")
        >>> store = open_store(split, size=4)
        >>> type(store).__name__, type(open_store(split, size=4, in_memory_gb=0)).__name__
        ('Resident', 'Streamed')
    """
    if len(split) * size * size * 3 <= in_memory_gb * BYTES_PER_GB:
        return Resident(split, size, decode_all(split, size, workers=workers).to(device))
    return Streamed(split, size, workers)


@dataclass(frozen=True)
class TrainingOrder:
    """The images of each training step.

    Every epoch is a new permutation of the split, cut into full batches. The remaining images, fewer than a
    batch, are not used in that epoch. Each of several processes gets its part of every batch.

    With ``share``, labeled and unlabeled images are permuted and cut separately, and each batch has the same
    number of unlabeled images. The epoch ends with the kind that gives more batches; the other kind continues
    with new permutations.

    Args:
        images: number of images in the split, labeled and unlabeled.
        batch_size: images of a step, over all processes; the whole split if it is smaller.
        seed: seed of all permutations.
        rank: position of this process.
        world: number of processes.
        unlabeled: number of unlabeled images, which are the last of the split.
        share: share of unlabeled images in each batch, in (0, 1); None treats all images alike.

    Raises:
        DataError: fewer than two images.

    Example:
        >>> order = TrainingOrder(images=7, batch_size=3, seed=0)
        >>> order.steps, [len(index_B) for index_B in order.epoch(0)]
        (2, [3, 3])
        >>> torch.equal(order.epoch(0)[1], order.epoch(0, first_step=1)[0])
        True
    """

    images: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    unlabeled: int = 0
    share: float | None = None

    def __post_init__(self) -> None:
        if self.images < 2:
            raise DataError(
                "Training needs at least two images", got=f"{self.images}", fix="add training images."
            )

    @property
    def full_batch(self) -> int:
        """Images of a step, over all processes."""
        return min(self.batch_size, self.images)

    @property
    def steps(self) -> int:
        """Number of steps in an epoch, at least one."""
        return max(count // size for _, count, size in self._kinds)

    def epoch(self, epoch: int, first_step: int = 0) -> list[Tensor]:
        """Image indices for this process: one tensor (B, int64) for each step, starting at ``first_step``."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "order", epoch))
        kinds = []
        for first, count, size in self._kinds:
            groups: list[Tensor] = []
            while len(groups) < self.steps:
                permuted_N = first + torch.randperm(count, generator=generator)
                groups += torch.split(permuted_N[: count // size * size], size)
            kinds.append(groups[: self.steps])
        whole = [torch.cat(parts) for parts in zip(*kinds, strict=True)]
        return [group[self.rank :: self.world] for group in whole[first_step:]]

    @property
    def _kinds(self) -> list[tuple[int, int, int]]:
        """(first image, number of images, images per batch) of each kind with its own share of a batch."""
        if self.share is None or not self.unlabeled:
            return [(0, self.images, self.full_batch)]
        labeled = self.images - self.unlabeled
        wanted = min(max(1, round(self.share * self.full_batch)), self.full_batch - 1)
        return [
            (0, labeled, min(labeled, self.full_batch - wanted)),
            (labeled, self.unlabeled, min(self.unlabeled, wanted)),
        ]


def in_order(images: int, batch_size: int) -> list[Tensor]:
    """All image indices in ascending order, in batches; the last batch may be smaller. Used for evaluation.

    Example:
        >>> [index_B.tolist() for index_B in in_order(5, batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """
    return list(torch.split(torch.arange(images), batch_size))
