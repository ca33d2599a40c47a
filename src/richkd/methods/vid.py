"""Variational information distillation: a Gaussian model predicts the teacher's maps from the student's.

Source: Ahn, Hu, Damianou, Lawrence and Dai, "Variational information distillation for knowledge transfer",
CVPR 2019, equations 4 to 6.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import weighted_mean
from richkd.methods.stages import STAGES_HELP, Stages, choose_pairs, pair_stages, to_smaller_size
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term

# Added to every variance, as in the code of the authors of CRD, so that none can become zero.
SMALLEST = 1e-5


class VidConfig(TargetConfig):
    """Settings of `vid`; the defaults are those of the benchmark code of CRD (Tian et al. 2020)."""

    stages: Stages = Field("all", description=STAGES_HELP)
    variance: float = Field(5.0, gt=1e-3, le=1e6, description="variance of every channel at the start")


@TERMS.register("vid", "variational information distillation on intermediate maps (Ahn et al. 2019)")
class Variational(Term):
    """See `vid_loss`; each pair of stages has a `Gaussian` of its own."""

    Config = VidConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps"})
    one_teacher = True
    # The variance would have to explain the difference of two targets if their losses were mixed.
    linear = False

    def __init__(self, config: VidConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        self.pairs = choose_pairs(pair_stages(setup.student.maps, teacher.maps), config.stages)
        self.models = nn.ModuleList(
            Gaussian(setup.student.maps[s][0], teacher.maps[t][0], config.variance) for s, t in self.pairs
        )

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        losses = []
        for (s, t), model in zip(self.pairs, self.models, strict=True):
            student_BFHW, teacher_BFHW = to_smaller_size(student.maps[s], teacher.maps[t])
            mean_BFHW, variance_F = model(student_BFHW)
            losses.append(vid_loss(mean_BFHW, variance_F, teacher_BFHW, target.weight_B))
        return Loss(sum(losses[1:], start=losses[0]))


class Gaussian(nn.Module):
    """The distribution of a teacher's map given the student's: a mean per position, a variance per channel.

    The mean is a network of three 1×1 convolutions with ReLU between them. The variance of a channel is
    ``log(1 + exp(a)) + 1e-5`` with a trained number a, and does not depend on the image.

    Example:
        >>> mean_BFHW, variance_F = Gaussian(3, 5, variance=5.0)(torch.zeros(2, 3, 4, 4))
        >>> tuple(mean_BFHW.shape), [round(v, 4) for v in variance_F[:2].tolist()]
        ((2, 5, 4, 4), [5.0, 5.0])
    """

    def __init__(self, student: int, teacher: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        # The inverse of softplus, in a form that does not overflow.
        above = variance - SMALLEST
        self.scale_F = nn.Parameter(torch.full((teacher,), above + math.log(-math.expm1(-above))))

    def forward(self, student_BFHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(student_BFHW), F.softplus(at_least_fp32(self.scale_F)) + SMALLEST


def vid_loss(
    mean_BFHW: Tensor, variance_F: Tensor, teacher_BFHW: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """``mean_B w · mean_{channels c, positions} ½ · ((t − μ)² / σ²_c + log σ²_c)`` of one stage, in nats.

    This is the negative log-likelihood of the teacher's map t under a Gaussian with mean μ and variance σ²,
    without the constant ½ log 2π. Its negative is, up to a constant, a lower bound of the information that
    the student's map has about the teacher's. It can be negative. The teacher receives no gradient.

    Args:
        mean_BFHW: μ, predicted from the student's map.
        variance_F: σ² of each channel.
        teacher_BFHW: t, of the same shape as the mean.
        weight_B: weight w of each image in [0, 1]; 1 if None.

    Example:
        >>> map_BFHW = torch.ones(2, 3, 4, 4)
        >>> float(vid_loss(map_BFHW - 2, torch.ones(3), map_BFHW))
        2.0
    """
    mean_BFHW, teacher_BFHW = at_least_fp32(mean_BFHW), at_least_fp32(teacher_BFHW.detach())
    variance_F11 = at_least_fp32(variance_F)[:, None, None]
    nats_BFHW = 0.5 * ((teacher_BFHW - mean_BFHW).square() / variance_F11 + variance_F11.log())
    loss_B = nats_BFHW.flatten(1).mean(dim=1)
    return weighted_mean(loss_B, weight_B)
