"""Similarity-preserving distillation: images that are similar for the teacher are similar for the student.

Source: Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019, equations 2 to 4.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, without_autocast
from richkd.core.types import Batch, Output, Target
from richkd.losses.features import normalize
from richkd.methods.stages import STAGES_HELP, Stages, choose_pairs, pair_stages
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term


class SimilarityConfig(TargetConfig):
    """Settings of `sp`; the defaults are those of the paper for CIFAR-10."""

    weight: float = Field(3000.0, ge=0, description="weight of the term in the sum that is minimized")
    stages: Stages = Field("last", description=STAGES_HELP)


@TERMS.register("sp", "similarities between the images of a batch, on intermediate maps (Tung and Mori 2019)")
class SimilarityPreserving(Term):
    """See `similarity_loss`; stages of student and teacher are paired by `pair_stages`."""

    Config = SimilarityConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps"})
    one_teacher = True
    linear = False
    least_images = 2

    def __init__(self, config: SimilarityConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        self.pairs = choose_pairs(pair_stages(setup.student.maps, teacher.maps), config.stages)

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        losses = [
            similarity_loss(student.maps[s].flatten(1), teacher.maps[t].flatten(1), target.weight_B)
            for s, t in self.pairs
        ]
        return Loss(sum(losses[1:], start=losses[0]))


def similarity_loss(student_BX: Tensor, teacher_BX: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """``1/B² · ‖G_teacher − G_student‖²`` (Frobenius norm) of one stage.

    G is the matrix of inner products of all pairs of images of the batch, with rows of unit L2 norm. So the
    widths of student and teacher may differ. The teacher receives no gradient.

    Args:
        student_BX: the student's map of each image, flattened.
        teacher_BX: the teacher's map of each image, flattened.
        weight_B: weight w of each image in [0, 1]; 1 if None. The square at (i, j) has the weight w_i · w_j,
            and images count by their weight in the norms. So an image without weight has no effect.

    Example:
        >>> map_BX = torch.eye(2)
        >>> float(similarity_loss(3 * map_BX, map_BX))  # scale does not matter
        0.0
        >>> float(similarity_loss(torch.tensor([[1.0], [0.0]]), map_BX))
        0.25
    """
    weight_B = None if weight_B is None else at_least_fp32(weight_B)
    with without_autocast(student_BX):
        student_BB = _similarities(student_BX, weight_B)
        teacher_BB = _similarities(teacher_BX.detach(), weight_B)
        square_BB = (teacher_BB - student_BB).square()
        return (square_BB if weight_B is None else square_BB * torch.outer(weight_B, weight_B)).mean()


def _similarities(map_BX: Tensor, weight_B: Tensor | None) -> Tensor:
    # Rows are normalized below, so their scale is free. At unit length, no product of large maps overflows.
    map_BX = at_least_fp32(map_BX)
    largest = torch.linalg.vector_norm(map_BX.detach(), dim=1).max()
    map_BX = map_BX / torch.where(largest > 0, largest, 1.0)
    product_BB = map_BX @ map_BX.T
    if weight_B is None:
        return normalize(product_BB)
    root_B = weight_B.to(product_BB.dtype).sqrt()
    norm_B1 = torch.linalg.vector_norm(product_BB * root_B, dim=1, keepdim=True)
    return product_BB / torch.where(norm_B1 > 0, norm_B1, 1.0)
