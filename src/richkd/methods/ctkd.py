"""Curriculum temperature: a trained temperature makes distillation harder during the run.

Source: Li, Li, Yang, Zhao, Song, Luo, Li and Yang, "Curriculum temperature for knowledge distillation", AAAI
2023, section 3, with the global temperature. Gradient reversal: Ganin and Lempitsky 2015, "Unsupervised
domain adaptation by backpropagation".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import kd_divergence
from richkd.methods.term import MAX_TEMPERATURE, Context, LogitConfig, Loss, Setup, Temperature, Term

# The parameter at the start of a run, as in the authors' code.
START = 1.0


class CtkdConfig(LogitConfig):
    """Settings of `ctkd`; the defaults are those of the authors' code for CIFAR-100."""

    of_progress = ("curriculum",)

    weight: float = Field(0.9, ge=0, description="weight of the term in the sum that is minimized")
    min_temperature: Temperature = Field(1.0, description="lower limit of the trained temperature")
    span: float = Field(
        20.0, gt=0, le=MAX_TEMPERATURE, description="the upper limit is min_temperature + span"
    )
    curriculum: float = Field(
        1 / 24,
        ge=0,
        le=1,
        description="fraction of the run in which lambda rises from 0 to max_lambda (10 of 240 epochs)",
    )
    max_lambda: float = Field(1.0, ge=0, description="factor of the temperature's reversed gradient")

    @property
    def temperature(self) -> float:
        """The temperature at the start of the run, for figures that need a fixed one."""
        return self.min_temperature + self.span / (1 + math.exp(-START))


@TERMS.register("ctkd", "distillation with a trained, adversarial temperature (Li et al. 2023)")
class Ctkd(Term):
    """KL divergence at the temperature ``min_temperature + span · sigmoid(a)`` with a trained number a.

    The student minimizes the loss. The gradient of a is multiplied by −lambda, so that a maximizes it. See
    `richkd.losses.logits.kd_divergence` for the loss and `curriculum_lambda` for lambda.
    """

    Config = CtkdConfig

    def __init__(self, config: CtkdConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.raw_temperature = nn.Parameter(torch.full((1,), START))

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        config: CtkdConfig = self.config
        factor = curriculum_lambda(context.progress, config.curriculum, config.max_lambda)
        temperature = self.temperature(reverse_gradient(self.raw_temperature, factor))
        return Loss(kd_divergence(student.logits_BC, target.logits_BC, temperature, target.weight_B))

    def temperature(self, raw: Tensor) -> Tensor:
        """The temperature that a number stands for."""
        config: CtkdConfig = self.config
        return (config.min_temperature + config.span * raw.sigmoid()).squeeze()


def curriculum_lambda(progress: float, curriculum: float = 1 / 24, max_lambda: float = 1.0) -> float:
    """``max_lambda · (1 − cos(π · progress / curriculum)) / 2``, and ``max_lambda`` after the curriculum.

    Args:
        progress: share of the run that is done, in [0, 1].
        curriculum: share of the run in which lambda rises; 0 for a constant lambda.
        max_lambda: the largest value.

    Example:
        >>> [round(curriculum_lambda(progress, curriculum=0.5), 3) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """
    if progress >= curriculum:
        return max_lambda
    return max_lambda * (1 - math.cos(math.pi * progress / curriculum)) / 2


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """The tensor itself, whose gradient is multiplied by ``−factor``.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> (reverse_gradient(x, 0.5) ** 2).sum().backward()
        >>> x.grad.tolist()
        [-3.0]
    """
    reversed_x: Tensor = _Reversal.apply(x, factor)
    return reversed_x


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.factor * gradients[0], None
