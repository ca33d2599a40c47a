"""Feature regression: the student's projected pooled feature follows that of a teacher, such as a CLIP.

Source: the kind of loss with which CLIP-KD (Yang et al., CVPR 2024), VL2Lite (Jang et al., CVPR 2025) and
LightlyTrain distill foundation models; their common form, not a copy of one of them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.features import mean_over_teachers, normalize
from richkd.losses.weighted import squared_error, weighted_mean
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term

Distance = Literal["cosine", "mse"]


class EmbedConfig(TargetConfig):
    """Settings of `embed`."""

    loss: Distance = Field(
        "cosine", description="cosine: 1 − cosine, so directions only; mse: mean squared difference"
    )
    head: Literal["linear", "mlp"] = Field(
        "linear",
        description="projection to the teacher's width; mlp: one hidden layer of that width, with GELU",
    )


@TERMS.register("embed", "cosine or squared distance of projected pooled features, of any teachers")
class Embed(Term):
    """See `embed_loss`; the student has one projection head for each teacher of the target.

    Heads are the student's. Trained heads of teachers could map all images to one point, where the loss is 0.
    """

    Config = EmbedConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(self, config: EmbedConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.heads = nn.ModuleList(
            projection(setup.student.features, teacher.features, mlp=config.head == "mlp")
            for teacher in setup.teachers
        )

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        losses = [
            embed_loss(head(student.feats_BF), teacher.feats_BF, self.config.loss, target.weight_B)
            for head, teacher in zip(self.heads, target.teachers, strict=True)
        ]
        return Loss(mean_over_teachers(losses, target.feature_weights))


def projection(student: int, teacher: int, *, mlp: bool) -> nn.Module:
    """A head from the width of the student's feature to that of a teacher's.

    Example:
        >>> [type(layer).__name__ for layer in projection(4, 8, mlp=True).children()]
        ['Linear', 'GELU', 'Linear']
    """
    if not mlp:
        return nn.Linear(student, teacher)
    return nn.Sequential(nn.Linear(student, teacher), nn.GELU(), nn.Linear(teacher, teacher))


def embed_loss(
    projected_BF: Tensor, teacher_BF: Tensor, loss: Distance = "cosine", weight_B: Tensor | None = None
) -> Tensor:
    """``mean_B w · (1 − cosine(s, t))``, or ``mean_B w · mean_F (s − t)²``, for one teacher.

    The teacher receives no gradient. A feature of length zero has no direction: its cosine is 0, without a
    gradient.

    Args:
        projected_BF: s, the student's feature after the head.
        teacher_BF: t, the teacher's feature, of the same width.
        loss: ``"cosine"`` or ``"mse"``.
        weight_B: weight w of each image in [0, 1]; 1 if None.

    Example:
        >>> import torch
        >>> feats_BF = torch.tensor([[3.0, 4.0]])
        >>> float(embed_loss(2 * feats_BF, feats_BF)), float(embed_loss(2 * feats_BF, feats_BF, "mse"))
        (0.0, 12.5)
    """
    if loss == "cosine":
        loss_B = 1 - (normalize(projected_BF) * normalize(teacher_BF.detach())).sum(dim=1)
    else:
        loss_B = squared_error(projected_BF, teacher_BF)
    return weighted_mean(loss_B, weight_B)
