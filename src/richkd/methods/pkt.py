"""Probabilistic knowledge transfer: the images of a batch are neighbors as they are for the teacher.

Source: Passalis and Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV 2018,
equations 3 to 7, with the cosine kernel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, without_autocast
from richkd.core.types import Batch, Output, Target
from richkd.losses.features import mean_over_teachers, normalize
from richkd.methods.term import Context, Loss, Need, TargetConfig, Term

# Added to probabilities before the logarithm, as in the authors' code: opposite features have probability 0.
SMALLEST = 1e-7


class ProbabilisticConfig(TargetConfig):
    """Settings of `pkt`; the default weight is that of the benchmark code of CRD (Tian et al. 2020)."""

    weight: float = Field(30000.0, ge=0, description="weight of the term in the sum that is minimized")


@TERMS.register("pkt", "probabilities that images are neighbors in a batch (Passalis and Tefas 2018)")
class Probabilistic(Term):
    """See `pkt_loss`; the losses of several teachers are averaged with their weights."""

    Config = ProbabilisticConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    linear = False
    least_images = 2

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        losses = [
            pkt_loss(student.feats_BF, teacher.feats_BF, target.weight_B) for teacher in target.teachers
        ]
        return Loss(mean_over_teachers(losses, target.feature_weights))


def pkt_loss(student_BF: Tensor, teacher_BF: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """``1/B² · Σ_ij p_ij · log((p_ij + ε) / (q_ij + ε))``, in nats, with ε = 1e-7.

    p_ij is the probability that image j is the neighbor of image i for the teacher, and q_ij that for the
    student: ``k_ij / Σ_j k_ij`` with the kernel ``k_ij = (cosine(x_i, x_j) + 1) / 2``. Widths may differ. The
    teacher receives no gradient.

    Args:
        student_BF: features of the student.
        teacher_BF: features of the teacher.
        weight_B: weight w of each image in [0, 1]; 1 if None. The term of image i has the weight w_i, and
            image j is a neighbor with the kernel ``w_j · k_ij``. So an image without weight has no effect.

    Example:
        >>> feats_BF = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> float(pkt_loss(3 * feats_BF, feats_BF))  # scale does not matter
        0.0
        >>> round(float(pkt_loss(torch.ones(2, 1), feats_BF)), 4)  # (ln 2 + ⅔ ln ⅔ + ⅓ ln ⅓) / 2
        0.0283
    """
    weight_B = None if weight_B is None else at_least_fp32(weight_B)
    with without_autocast(student_BF):
        student_BB = _probabilities(student_BF, weight_B)
        teacher_BB = _probabilities(teacher_BF.detach(), weight_B)
        nats_BB = teacher_BB * ((teacher_BB + SMALLEST) / (student_BB + SMALLEST)).log()
        return (nats_BB if weight_B is None else nats_BB * weight_B[:, None]).mean()


def _probabilities(x_BF: Tensor, weight_B: Tensor | None) -> Tensor:
    """Probability that image j is the neighbor of image i, at (i, j)."""
    unit_BF = normalize(at_least_fp32(x_BF))
    # Rounding can make the cosine of opposite features smaller than −1.
    kernel_BB = ((unit_BF @ unit_BF.T + 1) / 2).clamp(min=0)
    if weight_B is not None:
        kernel_BB = kernel_BB * weight_B
    total_B1 = kernel_BB.sum(dim=1, keepdim=True)
    return kernel_BB / torch.where(total_B1 > 0, total_B1, 1.0)
