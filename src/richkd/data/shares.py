"""Which images of a step each process computes, and in which part of gradient accumulation.

A step is cut into parts, and each part into one share for each process. Cuts are at even positions, so that
the two images of a pair (`richkd.data.mixup`) are never divided. Parts come first, so the parts of a step do
not depend on the number of processes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


def cut(images: int, pieces: int) -> list[int]:
    """Sizes of consecutive pieces of a batch, as equal as pairs allow; some are 0 if there are few pairs.

    The last three images of an odd number stay together.

    Example:
        >>> cut(10, 3), cut(9, 4), cut(3, 2)
        ([2, 4, 4], [2, 2, 2, 3], [0, 3])
    """
    pairs = max(1, images // 2)
    ends = [2 * (pairs * number // pieces) for number in range(pieces)] + [images]
    return [end - start for start, end in itertools.pairwise(ends)]


def part_sizes(images: int, parts: int) -> list[int]:
    """Images of each part of a step; fewer parts than asked for if there are fewer pairs.

    Example:
        >>> part_sizes(9, 4), part_sizes(10, 4), part_sizes(2, 4)
        ([2, 2, 2, 3], [2, 2, 2, 4], [2])
    """
    return [size for size in cut(images, parts) if size]


@dataclass(frozen=True)
class Share:
    """The images of one part of a step that a process computes.

    A process without an image of its own computes the first image of the part as a stand-in, so that it does
    the same operations as the others. The stand-in counts nowhere.

    Attributes:
        index_P: positions of all images of the part in the training split.
        sizes: images of each process.
        rank: number of this process.
        start: place of the part's first image in the step.
        of_step: images of the whole step.

    Example:
        >>> share = Share(torch.tensor([7, 5, 3]), sizes=(0, 3), rank=0, start=0, of_step=3)
        >>> share.index_B.tolist(), share.count, share.weight
        ([7], 0, 0.0)
    """

    index_P: Tensor
    sizes: tuple[int, ...]
    rank: int
    start: int
    of_step: int

    @property
    def first(self) -> int:
        """Place of the process's first image in the part."""
        return sum(self.sizes[: self.rank])

    @property
    def count(self) -> int:
        """Images that count for this process."""
        return self.sizes[self.rank]

    @property
    def computed(self) -> int:
        """Images that the process computes: `count`, or 1 for a stand-in."""
        return max(1, self.count)

    @property
    def index_B(self) -> Tensor:
        """Positions of the computed images in the training split."""
        return self.index_P[self.first : self.first + self.count] if self.count else self.index_P[:1]

    @property
    def weight(self) -> float:
        """The process's fraction of the part's images."""
        return self.count / len(self.index_P)

    @property
    def of_whole(self) -> float:
        """The part's fraction of the images of the step."""
        return len(self.index_P) / self.of_step

    @property
    def divided(self) -> bool:
        """Whether several processes compute the part."""
        return len(self.sizes) > 1


def shares_of(index_S: Tensor, parts: int, rank: int = 0, world: int = 1) -> tuple[Share, ...]:
    """The shares of a process of each part of a step.

    Args:
        index_S: positions of the step's images in the training split.
        parts: parts of gradient accumulation.
        rank: number of the process.
        world: number of processes.

    Example:
        >>> shares = shares_of(torch.arange(10), parts=2, rank=1, world=2)
        >>> [share.index_B.tolist() for share in shares]
        [[2, 3], [6, 7, 8, 9]]
    """
    sizes = part_sizes(len(index_S), parts)
    starts = itertools.accumulate(sizes, initial=0)
    return tuple(
        Share(part, tuple(cut(len(part), world)), rank, start, len(index_S))
        for part, start in zip(torch.split(index_S, sizes), starts, strict=False)
    )


def images_of(shares: tuple[Share, ...]) -> Tensor:
    """The images that a process computes in a step, in the order of its parts.

    Example:
        >>> images_of(shares_of(torch.arange(10), parts=2, rank=1, world=2)).tolist()
        [2, 3, 6, 7, 8, 9]
    """
    return torch.cat([share.index_B for share in shares])
