"""SimKD: the student's projected map follows the teacher's last map, and the teacher's classifier is reused.

Source: Chen, Mei, Zhang, Wang, Feng and Chen, "Knowledge distillation with the reused teacher classifier",
CVPR 2022, section 3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import squared_error, weighted_mean
from richkd.methods.stages import same_size
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term


@TERMS.register("simkd", "SimKD: projected last map, with the teacher's classifier (Chen et al. 2022)")
class ReusedClassifierTerm(Term):
    """See `projection_loss`. Projector and classifier belong to the student, which is saved with both.

    Maps are compared where the mean of the teacher's last map is its pooled feature, as in the paper. Of
    other teachers, such as a ViT with a class token, the pooled features are compared.
    """

    Config = TargetConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps", "features"})
    one_teacher = True
    # A squared distance to the target.
    linear = False
    reuses_classifier = True

    def __init__(self, config: TargetConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        assert setup.student.features == teacher.features, "the student ends with the teacher's classifier"
        self.averaged = teacher.averaged

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        pair = (student.feats_BF, teacher.feats_BF)
        if self.averaged:
            pair = same_size(student.maps[-1], teacher.maps[-1])
        return Loss(projection_loss(*pair, target.weight_B))


def projection_loss(student_BX: Tensor, teacher_BX: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """``mean_B w · mean (s − t)²`` over channels and positions.

    Args:
        student_BX: projected maps (B, channels, H, W) or features (B, channels) of the student.
        teacher_BX: those of the teacher, of the same shape; no gradient.
        weight_B: weight w of each image; 1 if None.

    Example:
        >>> import torch
        >>> float(projection_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])))
        2.0
    """
    return weighted_mean(squared_error(student_BX, teacher_BX), weight_B)
