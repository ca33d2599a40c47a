"""Hints: the student's intermediate maps, projected to the teacher's channels, follow the teacher's maps.

Source: Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: hints for thin deep nets", ICLR 2015,
equation 3.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import squared_error, weighted_mean
from richkd.methods.stages import STAGES_HELP, Stages, choose_pairs, pair_stages, to_smaller_size
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term


class HintConfig(TargetConfig):
    """Settings of `fitnet`; the default weight is that of the benchmark code of CRD (Tian et al. 2020)."""

    weight: float = Field(100.0, ge=0, description="weight of the term in the sum that is minimized")
    stages: Stages = Field("middle", description=STAGES_HELP)


@TERMS.register("fitnet", "squared difference of projected intermediate maps (Romero et al. 2015)")
class Hints(Term):
    """See `hint_loss`; a 1×1 convolution projects each of the student's maps to the teacher's channels."""

    Config = HintConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps"})
    one_teacher = True
    # A mixed target has the gradient of two mixed losses, and costs one pass through the connectors.
    linear = False

    def __init__(self, config: HintConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        self.pairs = choose_pairs(pair_stages(setup.student.maps, teacher.maps), config.stages)
        self.connectors = nn.ModuleList(
            nn.Conv2d(setup.student.maps[s][0], teacher.maps[t][0], 1) for s, t in self.pairs
        )

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        losses = []
        for (s, t), connector in zip(self.pairs, self.connectors, strict=True):
            student_BFHW, teacher_BFHW = to_smaller_size(student.maps[s], teacher.maps[t])
            losses.append(hint_loss(connector(student_BFHW), teacher_BFHW, target.weight_B))
        return Loss(sum(losses[1:], start=losses[0]))


def hint_loss(projected_BFHW: Tensor, teacher_BFHW: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """``mean_B w · mean_{channels, positions} (r(student) − teacher)²`` of one stage.

    r is the connector, which gives the student's map the channels of the teacher's. The teacher receives no
    gradient.

    Args:
        projected_BFHW: the student's map after the connector.
        teacher_BFHW: the teacher's map, of the same shape.
        weight_B: weight w of each image in [0, 1]; 1 if None.

    Example:
        >>> import torch
        >>> float(hint_loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)))
        4.0
    """
    return weighted_mean(squared_error(projected_BFHW, teacher_BFHW), weight_B)
