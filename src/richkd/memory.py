"""What the contrastive feature loss remembers: projections to one width, and two banks of embedded images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from richkd.config import MethodConfig
from richkd.losses.contrast import (
    contrast_log_normalisers,
    contrast_loss,
    draw,
    initial_bank,
    negative_rows,
    rows_by_class,
    update_bank,
)
from richkd.losses.features import fuse_features, normalised
from richkd.records import Batch, Output, Target
from richkd.seeds import mix_seed


class ContrastMemory(nn.Module):
    """Embedding heads, memory banks and normalisers of the contrastive loss.

    One linear head projects each network's features (student and every expert) to ``embed_width``.
    Both banks hold a row for each training image, sorted by class so that negatives of other classes
    are drawn without lists. The two normalisers Z are estimated on the first batch and then kept
    (paper: settings of the reference code).

    Args:
        student_width: width F of the student's feature.
        expert_widths: width of each expert's feature.
        labels_N: labels of the training images.
        classes: how many classes there are.
        config: ``embed_width``, ``negatives``, ``contrast_temperature``, ``bank_momentum``.
        seed: what negatives and initial banks are drawn from.
    """

    student_bank_ND: Tensor
    target_bank_ND: Tensor
    log_normalisers: Tensor
    row_of_image_N: Tensor
    class_starts_C: Tensor
    class_sizes_C: Tensor

    def __init__(
        self,
        student_width: int,
        expert_widths: Sequence[int],
        labels_N: Tensor,
        classes: int,
        config: MethodConfig,
        seed: int,
    ) -> None:
        super().__init__()
        width, images = config.embed_width, len(labels_N)
        self.student_head = nn.Linear(student_width, width)
        self.expert_heads = nn.ModuleList(nn.Linear(expert_width, width) for expert_width in expert_widths)
        self.register_buffer("student_bank_ND", initial_bank(images, width, mix_seed(seed, "student")))
        self.register_buffer("target_bank_ND", initial_bank(images, width, mix_seed(seed, "target")))
        self.register_buffer("log_normalisers", torch.full((2,), torch.nan))
        rows_N, starts_C, sizes_C = rows_by_class(labels_N, classes)
        # These three follow from the labels, so checkpoints need not carry them.
        self.register_buffer("row_of_image_N", rows_N, persistent=False)
        self.register_buffer("class_starts_C", starts_C, persistent=False)
        self.register_buffer("class_sizes_C", sizes_C, persistent=False)
        self.config, self.seed = config, seed

    def embed(self, student: Output, target: Target) -> tuple[Tensor, Tensor]:
        """The student's embedding and the fused, re-normalised embedding of the experts, both unit-norm."""
        student_BD = normalised(self.student_head(student.feats_BF).float())
        experts = [
            normalised(head(expert.feats_BF).float())
            for head, expert in zip(self.expert_heads, target.experts, strict=True)
        ]
        return student_BD, fuse_features(experts, target.feature_weights)

    def loss(self, student_BD: Tensor, target_BD: Tensor, batch: Batch, step: int) -> Tensor:
        """The contrastive loss of a batch, its negatives a function of (seed, step)."""
        rows_B1 = self.row_of_image_N[batch.index_B][:, None]
        draws_BK = draw(self.seed, step, (len(rows_B1), self.config.negatives), rows_B1.device)
        negatives_BK = negative_rows(batch.labels_B, self.class_starts_C, self.class_sizes_C, draws_BK)
        rows_BK1 = torch.cat([rows_B1, negatives_BK], dim=1)
        banks = (self.student_bank_ND, self.target_bank_ND)
        temperature = self.config.contrast_temperature
        if step == 0:
            estimate = contrast_log_normalisers(student_BD, target_BD, *banks, rows_BK1, temperature)
            self.log_normalisers.copy_(estimate)
        return contrast_loss(student_BD, target_BD, *banks, rows_BK1, self.log_normalisers, temperature)

    def remember(self, index_B: Tensor, memory: dict[str, Tensor]) -> None:
        """Move the banks' rows of these images towards their new embeddings."""
        rows_B = self.row_of_image_N[index_B]
        update_bank(self.student_bank_ND, rows_B, memory["student"], self.config.bank_momentum)
        update_bank(self.target_bank_ND, rows_B, memory["target"], self.config.bank_momentum)
