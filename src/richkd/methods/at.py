"""Attention transfer: the student looks where the teacher looks, stage by stage.

Source: Zagoruyko and Komodakis, "Paying more attention to attention", ICLR 2017, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.losses.features import normalize
from richkd.losses.weighted import squared_error, weighted_mean
from richkd.methods.stages import pair_stages, smaller_size
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term


class AttentionConfig(TargetConfig):
    """Settings of `at`; the default weight is that of the authors' code."""

    weight: float = Field(1000.0, ge=0, description="weight of the term in the sum that is minimized")
    # Below 1, the gradient has no limit where an activation is 0, as behind a ReLU.
    power: float = Field(2.0, ge=1, description="exponent p of the activations in an attention map")


@TERMS.register("at", "attention transfer on intermediate maps (Zagoruyko and Komodakis 2017)")
class AttentionTransfer(Term):
    """See `attention_loss`; stages of student and teacher are paired by `pair_stages`."""

    Config = AttentionConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps"})
    one_teacher = True
    linear = False

    def __init__(self, config: AttentionConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        self.pairs = pair_stages(setup.student.maps, teacher.maps)

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        pairs = [(student.maps[s], teacher.maps[t]) for s, t in self.pairs]
        return Loss(attention_loss(pairs, self.config.power, target.weight_B))


def attention_loss(
    pairs: Sequence[tuple[Tensor, Tensor]], power: float = 2.0, weight_B: Tensor | None = None
) -> Tensor:
    """``Σ_stages mean_B w · mean_positions (Q_student − Q_teacher)²``.

    Q is the attention map: the mean over channels of ``|activation|^p`` at each position, averaged to the
    smaller resolution of the two, flattened and scaled to unit L2 norm. Teachers receive no gradient.

    Args:
        pairs: maps (B, channels, H, W) of student and teacher for each stage; channels may differ.
        power: p, at least 1.
        weight_B: weight w of each image in [0, 1]; 1 if None.

    Example:
        >>> import torch
        >>> map_BFHW = torch.rand(2, 3, 4, 4)
        >>> float(attention_loss([(map_BFHW, 5 * map_BFHW)])) < 1e-12  # scale does not matter
        True
    """
    losses = []
    for student_BFHW, teacher_BFHW in pairs:
        size = smaller_size(student_BFHW, teacher_BFHW)
        student_BP = attention_map(student_BFHW, size, power)
        teacher_BP = attention_map(teacher_BFHW.detach(), size, power)
        losses.append(weighted_mean(squared_error(student_BP, teacher_BP), weight_B))
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def attention_map(map_BFHW: Tensor, size: tuple[int, int], power: float = 2.0) -> Tensor:
    """Where a stage is active: (B, height · width) of unit L2 norm, averaged to ``size``.

    Example:
        >>> import torch
        >>> attention_map(torch.tensor([[[[3.0, 4.0]]]]), (1, 2), power=1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    active_BHW = at_least_fp32(map_BFHW).abs().pow(power).mean(dim=1)
    return normalize(F.adaptive_avg_pool2d(active_BHW, size).flatten(1))
