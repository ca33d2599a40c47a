"""Batches of source pixels: decoded once into memory where they fit, streamed by workers where they do not.

Order is a function of (seed, epoch), so an epoch can be entered at any step, and neither the number
of workers nor of processes changes which images make up a step.
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
# Rows that are looked at together for a fingerprint.
FINGERPRINT_ROWS = 1000


class Store(Protocol):
    """Square uint8 source images of a split, by index, and how to walk through lists of indices."""

    @property
    def split(self) -> Split: ...

    @property
    def size(self) -> int: ...

    def batches(self, groups: list[Tensor]) -> Iterator[Batch]:
        """A batch for each list of image indices.

        Raises:
            DataError: naming an image that cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the source pixels and their order, or of what they are decoded from."""
        ...


@dataclass(frozen=True)
class Resident:
    """All images of a split as one uint8 tensor, on the device that trains; a batch is one gather."""

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
        # Raised in a worker, an error would reach the user as that worker's stack trace.
        try:
            return torch.from_numpy(np.array(square(self.split.read(index), self.size)))
        except DataError as error:
            return error


def _stack(images: list[Tensor | DataError]) -> Tensor | DataError:
    error = next((image for image in images if isinstance(image, DataError)), None)
    return error or torch.stack([image for image in images if isinstance(image, Tensor)])


@dataclass(frozen=True)
class Streamed:
    """Images decoded by worker processes as they are needed."""

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
        """Files count by path, size and time of change, embedded images by their bytes."""
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
    """The split's images at ``size`` pixels: resident on a device up to ``in_memory_gb`` GiB, streamed above.

    Raises:
        DataError: naming images that cannot be read (resident stores find all of them at once).
    """
    if len(split) * size * size * 3 <= in_memory_gb * BYTES_PER_GB:
        return Resident(split, size, decode_all(split, size, workers=workers).to(device))
    return Streamed(split, size, workers)


@dataclass(frozen=True)
class TrainingOrder:
    """Which images make up each step of each epoch.

    Every epoch is a fresh permutation of the split, cut into full batches; the few images left over
    sit that epoch out. With several processes each takes its share of every batch.

    Where the last ``unlabeled`` images have a ``share`` of each batch, both kinds are permuted and cut by
    themselves. An epoch is then as long as the kind that lasts longer; of the other kind, further
    permutations follow the first.
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
                "Training needs at least two images", got=f"{self.images}", fix="add images to train."
            )

    @property
    def full_batch(self) -> int:
        return min(self.batch_size, self.images)

    @property
    def steps(self) -> int:
        """Steps in an epoch, at least one."""
        return max(count // size for _, count, size in self._kinds)

    def epoch(self, epoch: int, first_step: int = 0) -> list[Tensor]:
        """The image indices of each step of an epoch, from ``first_step`` on, for this process."""
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
        """First image, number of images and images in a batch of each kind that has a share of its own."""
        if self.share is None or not self.unlabeled:
            return [(0, self.images, self.full_batch)]
        labeled = self.images - self.unlabeled
        wanted = min(max(1, round(self.share * self.full_batch)), self.full_batch - 1)
        return [
            (0, labeled, min(labeled, self.full_batch - wanted)),
            (labeled, self.unlabeled, min(self.unlabeled, wanted)),
        ]


def in_order(images: int, batch_size: int) -> list[Tensor]:
    """All indices from first to last in batches, the last one as short as it comes: for evaluation."""
    return list(torch.split(torch.arange(images), batch_size))
