"""Averaged teachers: the student follows the mean of the teachers' softened probabilities.

Source: You, Xu, Xu and Tao, "Learning from multiple teacher networks", KDD 2017, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import kd_divergence
from richkd.losses.several_teachers import softened
from richkd.methods.term import Context, Loss, Need, TargetConfig, Temperature, Term


class AveragedConfig(TargetConfig):
    """Settings of `aver`; the defaults are those of comparisons on CIFAR-100."""

    temperature: Temperature = Field(4.0, description="temperature of student and teachers")


@TERMS.register("aver", "mean of the softened probabilities of several teachers (You et al. 2017)")
class Averaged(Term):
    """See `averaged_divergence`."""

    Config = AveragedConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher-logits"})

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        temperature = self.config.temperature
        return Loss(averaged_divergence(student.logits_BC, target.logs, temperature, target.weight_B))


def averaged_divergence(
    student_BC: Tensor, logs: Sequence[Tensor], temperature: float = 4.0, weight_B: Tensor | None = None
) -> Tensor:
    """``T² · mean_B w · KL(mean_m softmax(z_m / T) ‖ softmax(student / T))``, in nats.

    Its gradient is that of the mean of the divergences from each teacher. Computed in float32 or higher.

    Args:
        student_BC: logits of the student.
        logs: logits or log-probabilities (B, C) of each teacher; no gradient.
        temperature: T > 0.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> teachers = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
        >>> student_BC = torch.tensor([[0.7, 0.3]]).log()
        >>> abs(float(averaged_divergence(student_BC, teachers, temperature=1.0))) < 1e-6
        True
    """
    mean_BC = mean_of_softened(logs, temperature)
    # The mean is softened already, so it is multiplied by the temperature by which the loss divides.
    return kd_divergence(student_BC, temperature * mean_BC, temperature, weight_B)


def mean_of_softened(logs: Sequence[Tensor], temperature: float) -> Tensor:
    """``log mean_m softmax(z_m / T)`` (B, C).

    Example:
        >>> teachers = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
        >>> [round(p, 3) for p in mean_of_softened(teachers, 1.0).exp()[0].tolist()]
        [0.7, 0.3]
    """
    soft_MBC = torch.stack([softened(log_BC, temperature) for log_BC in logs])
    # The softmax only removes rounding errors and the constant log M.
    return soft_MBC.logsumexp(dim=0).log_softmax(dim=1)
