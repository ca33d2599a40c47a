"""Which images a batch has: shuffled for training, in order for evaluation.

The order of training images is a function of (seed, epoch). An epoch can therefore be resumed at any step,
and the numbers of workers and processes do not change the images of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.core.errors import DataError
from richkd.core.seeds import mix_seed


@dataclass(frozen=True)
class TrainingOrder:
    """The images of each training step.

    Every epoch is a new permutation of the split, cut into full batches. The remaining images, fewer than a
    batch, are not used in that epoch. How several processes divide a batch is in `richkd.data.shares`.

    With ``share``, labeled and unlabeled images are permuted and cut separately, and each batch has the same
    number of unlabeled images, at random places. The epoch ends with the kind that gives more batches; the
    other kind continues with new permutations.

    Args:
        images: number of images in the split, labeled and unlabeled.
        batch_size: images of a step; the whole split if it is smaller.
        seed: seed of all permutations.
        unlabeled: number of unlabeled images.
        share: share of unlabeled images in each batch, in (0, 1); None treats all images alike.
        by_kind_N: positions of the labeled images, then those of the unlabeled ones; read with ``share``.
            None if the unlabeled images are the last of the split.

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
    unlabeled: int = 0
    share: float | None = None
    by_kind_N: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images < 2:
            raise DataError(
                "Training needs at least two images", got=f"{self.images}", fix="add training images."
            )

    @property
    def full_batch(self) -> int:
        """Images of a full step."""
        return min(self.batch_size, self.images)

    @property
    def images_of_step(self) -> int:
        """Images of every step; `full_batch`, or less if a kind has too few images."""
        return sum(size for _, _, size in self._kinds)

    @property
    def steps(self) -> int:
        """Number of steps in an epoch, at least one."""
        return max(count // size for _, count, size in self._kinds)

    @property
    def images_of_epoch(self) -> int:
        """Images that an epoch shows: the split; with ``share``, those of all steps, some of them again."""
        return self.images if len(self._kinds) == 1 else self.steps * self.images_of_step

    def epoch(self, epoch: int, first_step: int = 0) -> list[Tensor]:
        """Image indices: one tensor (B, int64) for each step, starting at ``first_step``."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "order", epoch))
        kinds = []
        for first, count, size in self._kinds:
            groups: list[Tensor] = []
            while len(groups) < self.steps:
                permuted_N = first + torch.randperm(count, generator=generator)
                groups += torch.split(permuted_N[: count // size * size], size)
            kinds.append(groups[: self.steps])
        whole = [torch.cat(parts) for parts in zip(*kinds, strict=True)]
        if len(kinds) > 1:
            # Neighbors are pairs of mixup, which may be of both kinds.
            whole = [group[torch.randperm(len(group), generator=generator)] for group in whole]
            if self.by_kind_N is not None:
                whole = [self.by_kind_N[group] for group in whole]
        return whole[first_step:]

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
