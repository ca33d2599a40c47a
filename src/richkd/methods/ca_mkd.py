"""Confidence-aware teachers: for each image, a teacher counts more if it is right about the label.

Source: Zhang, Chen and Wang, "Confidence-aware multi-teacher knowledge distillation", ICASSP 2022, equations
1 to 3. The features of the paper (equations 4 to 6) are the term `ca-mkd-maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.losses.several_teachers import weighted_divergence
from richkd.methods.term import Context, Loss, Need, TargetConfig, Temperature, Term


class ConfidenceAwareConfig(TargetConfig):
    """Settings of `ca-mkd`; the defaults are those of the paper for CIFAR-100."""

    temperature: Temperature = Field(4.0, description="temperature of student and teachers")


@TERMS.register("ca-mkd", "several teachers, weighted per image by their error (Zhang et al. 2022)")
class ConfidenceAware(Term):
    """See `confidence_weights` and `richkd.losses.several_teachers.weighted_divergence`."""

    Config = ConfidenceAwareConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher-logits"})

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        weights_MB = confidence_weights([log_BC.detach() for log_BC in target.logs], batch.labels_B)
        temperature = self.config.temperature
        value = weighted_divergence(student.logits_BC, target.logs, weights_MB, temperature, target.weight_B)
        return Loss(value)


def confidence_weights(logits: Sequence[Tensor], labels_B: Tensor) -> Tensor:
    """``(1 − exp L_m / Σ_j exp L_j) / (M − 1)`` (M, B), with L_m the cross-entropy of teacher m.

    The weights of M teachers sum to one for each image. One teacher has the weight one. Teachers have equal
    weights for an image without a label (−1), because nothing tells which of them is right.

    Args:
        logits: logits or log-probabilities (B, C) that are compared with the labels.
        labels_B: class of each image, with which the cross-entropy is computed.

    Example:
        >>> right_BC = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
        >>> weights_MB = confidence_weights([right_BC, right_BC.flip(1)], torch.tensor([0, -1]))
        >>> [[round(weight, 3) for weight in row] for row in weights_MB.tolist()]
        [[1.0, 0.5], [0.0, 0.5]]
    """
    teachers = len(logits)
    if teachers == 1:
        return at_least_fp32(logits[0]).new_ones(1, len(labels_B))
    errors_MB = torch.stack(
        [
            F.cross_entropy(at_least_fp32(z_BC), labels_B.long(), ignore_index=UNLABELED, reduction="none")
            for z_BC in logits
        ]
    )
    # An image without a label has the error zero for all teachers, and so equal weights.
    return (1 - errors_MB.softmax(dim=0)) / (teachers - 1)
