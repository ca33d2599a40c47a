"""State of the contrastive loss: projection heads, and memory banks or queues of earlier embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from richkd.core.device import moved
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.losses.bfloat16_copy import Bfloat16Copy
from richkd.losses.contrast import both_bank_log_scores, log_normalizers_of, nce_both_ways, shared_log_scores
from richkd.losses.features import fuse_features, normalize
from richkd.losses.negatives import (
    below,
    draw,
    initial_bank,
    negative_rows,
    refuse_one_class,
    rows_by_class,
)

Negatives = Literal["memory-bank", "shared", "queue"]
Scores = tuple[tuple[Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class ContrastSettings:
    """Settings of `ContrastMemory`.

    Attributes:
        embed_dim: width D of the embedding in which features are compared.
        negatives: ``"memory-bank"``: each image has its own negatives; ``"shared"``: one set per batch;
            ``"queue"``: the latest embeddings.
        num_negatives: number K of negatives.
        temperature: temperature of the scores.
        momentum: momentum of the memory banks, in [0, 1).
    """

    embed_dim: int = 128
    negatives: Negatives = "memory-bank"
    num_negatives: int = 16384
    temperature: float = 0.07
    momentum: float = 0.5


class ContrastMemory(nn.Module):
    """Projection heads, earlier embeddings and normalizers of the contrastive loss.

    One linear head projects each network's features (student and every teacher) to ``embed_dim``. The two
    normalizers Z are estimated on the first batch and then kept, as in the published code.
    ``settings.negatives`` selects where negatives come from: :class:`Banks` or :class:`Queues`.

    Args:
        student_width: width F of the student's feature.
        teacher_widths: width of each teacher's feature.
        labels_N: labels of the training images. An unlabeled image forms its own class, because its class is
            unknown.
        classes: how many classes there are.
        settings: see `ContrastSettings`.
        seed: seed of the negatives and of the initial embeddings.

    Example:
        >>> settings = ContrastSettings(embed_dim=4, num_negatives=2)
        >>> memory = ContrastMemory(5, [6], torch.tensor([0, 0, 1]), 2, settings, seed=0)
        >>> [tuple(head.weight.shape) for head in (memory.student_head, *memory.teacher_heads)]
        [(4, 5), (4, 6)]
        >>> tuple(memory.negatives.student_ND.shape)
        (3, 4)
    """

    log_normalizers: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_widths: Sequence[int],
        labels_N: Tensor,
        classes: int,
        settings: ContrastSettings,
        seed: int,
    ) -> None:
        super().__init__()
        width = settings.embed_dim
        self.student_head = nn.Linear(student_width, width)
        self.teacher_heads = nn.ModuleList(
            nn.Linear(teacher_width, width) for teacher_width in teacher_widths
        )
        kind = Queues if settings.negatives == "queue" else Banks
        groups_N, groups = unlabeled_as_classes(labels_N, classes)
        self.negatives: Banks | Queues = kind(groups_N, groups, settings, seed)
        self.register_buffer("log_normalizers", torch.full((2,), torch.nan))
        self.images = len(labels_N)

    def embed(self, student: Output, target: Target) -> tuple[Tensor, Tensor]:
        """The student's embedding and the fused, re-normalized embedding of the teachers, both unit-norm."""
        student_BD = normalize(self.student_head(student.feats_BF).float())
        teachers = [
            normalize(head(teacher.feats_BF).float())
            for head, teacher in zip(self.teacher_heads, target.teachers, strict=True)
        ]
        return student_BD, fuse_features(teachers, target.feature_weights)

    def loss(
        self,
        student_BD: Tensor,
        target_BD: Tensor,
        batch: Batch,
        step: int,
        weight_B: Tensor | None = None,
        first: int = 0,
        of_step: int | None = None,
    ) -> Tensor:
        """The contrastive loss of a batch; its negatives are a function of (seed, step, place in the step).

        ``weight_B`` is the weight of each image's loss; 1 if None. The batch has the images from ``first`` on
        of the ``of_step`` images of the step; None for all of them.
        """
        scores, shares_B = self.negatives(student_BD, target_BD, batch, step, first, of_step)
        if step == first == 0:
            self.log_normalizers.copy_(log_normalizers_of(scores, self.images))
        return nce_both_ways(scores, self.log_normalizers, self.images, shares_B, weight_B)

    def remember(self, index_B: Tensor, student_BD: Tensor, target_BD: Tensor) -> None:
        """Store the new embeddings of these images."""
        self.negatives.remember(index_B, student_BD, target_BD)


class Banks(nn.Module):
    """Two memory banks with one row per training image, sorted by class.

    With ``memory-bank``, each image has its own K negatives, which are rows of other classes. With
    ``shared``, the batch has one set of K rows, and an image ignores the rows of its own class; this costs a
    third, and the cost does not depend on the number of images.

    Example:
        >>> banks = Banks(torch.tensor([0, 1, 0]), 2, ContrastSettings(embed_dim=2, momentum=0.0), seed=0)
        >>> new_BD = torch.tensor([[1.0, 0.0]])
        >>> banks.remember(torch.tensor([1]), new_BD, new_BD)
        >>> banks.student_ND[banks.row_of_image_N[1]].tolist()
        [1.0, 0.0]
    """

    student_ND: Tensor
    target_ND: Tensor
    row_of_image_N: Tensor
    class_starts_C: Tensor
    class_sizes_C: Tensor
    labels_N: Tensor

    def __init__(self, labels_N: Tensor, classes: int, settings: ContrastSettings, seed: int) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        for name in ("student", "target"):
            bank_ND = initial_bank(len(labels_N), settings.embed_dim, mix_seed(seed, name))
            self.register_buffer(f"{name}_ND", bank_ND)
        self._student_copy, self._target_copy = Bfloat16Copy(), Bfloat16Copy()
        # These follow from the labels, so checkpoints do not contain them.
        rows_N, starts_C, sizes_C = rows_by_class(labels_N, classes)
        self.register_buffer("row_of_image_N", rows_N, persistent=False)
        self.register_buffer("class_starts_C", starts_C, persistent=False)
        self.register_buffer("class_sizes_C", sizes_C, persistent=False)
        self.register_buffer("labels_N", labels_N, persistent=False)

    def forward(
        self,
        student_BD: Tensor,
        target_BD: Tensor,
        batch: Batch,
        step: int,
        first: int = 0,
        of_step: int | None = None,
    ) -> Scores:
        index_B = moved(batch.index_B, self.labels_N.device)
        rows_B, labels_B = self.row_of_image_N[index_B], self.labels_N[index_B]
        if self.settings.negatives == "shared":
            return self._shared(student_BD, target_BD, rows_B, labels_B, step)
        images = len(rows_B)
        whole = images if of_step is None else of_step
        draws_SK = draw(self.seed, step, (whole, self.settings.num_negatives), rows_B.device)
        # A stand-in for images of another process may lie behind the last image of the step.
        draws_BK = draws_SK[min(first, whole - images) :][:images]
        negatives_BK = negative_rows(labels_B, self.class_starts_C, self.class_sizes_C, draws_BK)
        rows_BK1 = torch.cat([rows_B[:, None], negatives_BK], dim=1)
        banks, temperature = (self.student_ND, self.target_ND), self.settings.temperature
        scores = both_bank_log_scores(
            student_BD, target_BD, *banks, rows_BK1, temperature, self._for_products()
        )
        return scores, None

    def remember(self, index_B: Tensor, student_BD: Tensor, target_BD: Tensor) -> None:
        """Move the images' rows towards their new embeddings."""
        rows_B = self.row_of_image_N[index_B]
        self._student_copy.update(self.student_ND, rows_B, student_BD, self.settings.momentum)
        self._target_copy.update(self.target_ND, rows_B, target_BD, self.settings.momentum)

    def _for_products(self) -> tuple[Tensor, Tensor]:
        return self._student_copy.of(self.student_ND), self._target_copy.of(self.target_ND)

    def _shared(
        self, student_BD: Tensor, target_BD: Tensor, rows_B: Tensor, labels_B: Tensor, step: int
    ) -> Scores:
        draws_K = draw(self.seed, step, (self.settings.num_negatives,), rows_B.device)
        rows_K = below(draws_K, len(self.student_ND))
        starts_B1 = self.class_starts_C[labels_B, None]
        excluded_BK = (rows_K >= starts_B1) & (rows_K < starts_B1 + self.class_sizes_C[labels_B, None])
        student_KD, target_KD = (bank_ND[rows_K] for bank_ND in self._for_products())
        temperature = self.settings.temperature
        scores = (
            shared_log_scores(student_BD, self.target_ND[rows_B], target_KD, excluded_BK, temperature),
            shared_log_scores(target_BD, self.student_ND[rows_B], student_KD, excluded_BK, temperature),
        )
        return scores, valid_negative_fraction(excluded_BK)


class Queues(nn.Module):
    """The latest K embeddings of student and target; the size does not depend on the number of images.

    The positive of an image is its own embedding by the other network. Entries of its own class are ignored.
    Queues start as random rows without a class.

    Example:
        >>> settings = ContrastSettings(embed_dim=2, negatives="queue", num_negatives=3)
        >>> queues = Queues(torch.tensor([0, 1]), 2, settings, seed=0)
        >>> new_BD = torch.eye(2)
        >>> queues.remember(torch.tensor([1, 0]), new_BD, new_BD)
        >>> queues.labels_K.tolist()  # -1: random row without a class
        [1, 0, -1]
    """

    student_KD: Tensor
    target_KD: Tensor
    labels_K: Tensor
    next: Tensor
    labels_N: Tensor

    def __init__(self, labels_N: Tensor, classes: int, settings: ContrastSettings, seed: int) -> None:
        super().__init__()
        self.temperature = settings.temperature
        for name in ("student", "target"):
            queue_KD = initial_bank(settings.num_negatives, settings.embed_dim, mix_seed(seed, name))
            self.register_buffer(f"{name}_KD", queue_KD)
        self.register_buffer("labels_K", torch.full((settings.num_negatives,), -1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))
        self.register_buffer("labels_N", labels_N, persistent=False)
        refuse_one_class(torch.bincount(labels_N, minlength=classes))

    def forward(self, student_BD: Tensor, target_BD: Tensor, batch: Batch, *place: int | None) -> Scores:
        index_B = moved(batch.index_B, self.labels_N.device)
        excluded_BK = self.labels_K == self.labels_N[index_B, None]
        scores = (
            shared_log_scores(student_BD, target_BD, self.target_KD, excluded_BK, self.temperature),
            shared_log_scores(target_BD, student_BD, self.student_KD, excluded_BK, self.temperature),
        )
        return scores, valid_negative_fraction(excluded_BK)

    def remember(self, index_B: Tensor, student_BD: Tensor, target_BD: Tensor) -> None:
        """Replace the oldest entries; of a batch that is longer than the queue, keep the end."""
        latest = slice(-len(self.labels_K), None)
        index_B, student_BD, target_BD = index_B[latest], student_BD[latest], target_BD[latest]
        places_B = (self.next + torch.arange(len(index_B), device=self.next.device)) % len(self.labels_K)
        self.student_KD[places_B] = student_BD
        self.target_KD[places_B] = target_BD
        self.labels_K[places_B] = self.labels_N[index_B]
        self.next += len(index_B)


def unlabeled_as_classes(labels_N: Tensor, classes: int) -> tuple[Tensor, int]:
    """Labels in which each unlabeled image forms its own class, and the resulting number of classes.

    Example:
        >>> labels_N, classes = unlabeled_as_classes(torch.tensor([0, UNLABELED, 1, UNLABELED]), 2)
        >>> labels_N.tolist(), classes
        ([0, 2, 1, 3], 4)
    """
    unlabeled_N = labels_N == UNLABELED
    groups_N = labels_N.clone()
    count = int(unlabeled_N.sum())
    groups_N[unlabeled_N] = classes + torch.arange(count)
    return groups_N, classes + count


def valid_negative_fraction(excluded_BK: Tensor) -> Tensor:
    """Fraction of each image's scores that are negatives; an image without negatives counts as having one.

    Example:
        >>> valid_negative_fraction(torch.tensor([[True, False], [True, True]])).tolist()
        [0.5, 0.5]
    """
    counted_B = (~excluded_BK).sum(dim=1)
    return counted_B.clamp(min=1) / excluded_BK.shape[1]
