"""Relational distillation: distances and angles between images are those of the teacher.

Source: Park, Kim, Lu and Cho, "Relational knowledge distillation", CVPR 2019, equations 3 to 9.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, without_autocast
from richkd.core.types import Batch, Output, Target
from richkd.losses.features import mean_over_teachers, normalize
from richkd.methods.term import Context, Loss, Need, TargetConfig, Term


class RelationalConfig(TargetConfig):
    """Settings of `rkd`; the defaults are the paper's for classification."""

    distance: float = Field(25.0, ge=0, description="weight of the distances between two images")
    angle: float = Field(
        50.0, ge=0, description="weight of the angles between three images; 0: not computed, B³ numbers"
    )


@TERMS.register("rkd", "distances and angles between the images of a batch (Park et al. 2019)")
class Relational(Term):
    """See `rkd_loss`; the losses of several teachers are averaged with their weights."""

    Config = RelationalConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    linear = False
    # Two images have one distance, which is the mean, and no angle.
    least_images = 3

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        config: RelationalConfig = self.config
        losses = [
            rkd_loss(
                student.feats_BF,
                teacher.feats_BF,
                distance=config.distance,
                angle=config.angle,
                weight_B=target.weight_B,
            )
            for teacher in target.teachers
        ]
        return Loss(mean_over_teachers(losses, target.feature_weights))


def rkd_loss(
    student_BF: Tensor,
    teacher_BF: Tensor,
    *,
    distance: float = 25.0,
    angle: float = 50.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``distance · mean_ij h(d_ij) + angle · mean_ijk h(a_ijk)``, over all pairs and triplets of the batch.

    d is the difference of teacher and student in ``‖x_i − x_j‖ / μ``, with μ the mean of all distances that
    are not zero. a is their difference in the cosine of the angle at x_i between x_j and x_k. h is the Huber
    loss: x²/2 for |x| ≤ 1, else |x| − ½. Widths may differ. The teacher receives no gradient.

    Args:
        student_BF: features of the student.
        teacher_BF: features of the teacher.
        distance: weight of the distances.
        angle: weight of the angles.
        weight_B: weight w of each image in [0, 1]; 1 if None. ``mean_ij h_ij`` is then ``mean_i w_i ·
            Σ_j w_j · h_ij / Σ_j w_j``, likewise for triplets, and pairs count by w_i · w_j in μ. So an image
            without weight has no effect.

    Example:
        >>> feats_BF = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> round(float(rkd_loss(3 * feats_BF + 1, feats_BF)), 6)  # scale and shift do not matter
        0.0
        >>> float(rkd_loss(feats_BF, feats_BF[[1, 0, 2]])) > 0
        True
    """
    weight_B = None if weight_B is None else at_least_fp32(weight_B)
    with without_autocast(student_BF):
        student_BBF, teacher_BBF = _differences(student_BF), _differences(teacher_BF.detach())
        student_BB, teacher_BB = (_distances(x_BBF, weight_B) for x_BBF in (student_BBF, teacher_BBF))
        value = distance * _mean(_huber(student_BB, teacher_BB), weight_B)
        if angle:
            student_BBB, teacher_BBB = _cosines(student_BBF), _cosines(teacher_BBF)
            value = value + angle * _mean(_huber(student_BBB, teacher_BBB), weight_B)
    return value


def _mean(values: Tensor, weight_B: Tensor | None) -> Tensor:
    """Mean over pairs (B × B) or triplets (B × B × B), weighted as `rkd_loss` describes."""
    if weight_B is None:
        return values.mean()
    total = weight_B.sum()
    for _ in range(values.ndim - 1):
        values = (values * weight_B).sum(dim=-1) / torch.where(total > 0, total, 1.0)
    return (weight_B * values).mean()


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    loss: Tensor = F.smooth_l1_loss(student, teacher, reduction="none")
    return loss


def _differences(x_BF: Tensor) -> Tensor:
    """Difference vectors: row (i, j) is x_j − x_i."""
    x_BF = at_least_fp32(x_BF)
    return x_BF[None, :] - x_BF[:, None]


def _distances(x_BBF: Tensor, weight_B: Tensor | None) -> Tensor:
    """Distances of all pairs, divided by the mean of those that are not zero."""
    distance_BB = torch.linalg.vector_norm(x_BBF, dim=-1)
    weight_BB = (distance_BB > 0).to(distance_BB.dtype)
    if weight_B is not None:
        weight_BB = weight_BB * torch.outer(weight_B, weight_B)
    total = weight_BB.sum()
    # Images that all have one feature, or no weight, have no scale.
    mean = torch.where(total > 0, (weight_BB * distance_BB).sum() / torch.where(total > 0, total, 1.0), 1.0)
    scaled_BB: Tensor = distance_BB / mean
    return scaled_BB


def _cosines(x_BBF: Tensor) -> Tensor:
    """Cosine of the angle at image i between images j and k, at (i, j, k); 0 where two of them coincide."""
    unit_BBF = normalize(x_BBF)
    return torch.bmm(unit_BBF, unit_BBF.transpose(1, 2))
