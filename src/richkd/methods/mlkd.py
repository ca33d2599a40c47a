"""Multi-level logit distillation: predictions agree image by image, between images, and between classes.

Source: Jin, Wang and Lin, "Multi-level logit distillation", CVPR 2023, section 3. The form for one view of
each image is used here; docs/methods/mlkd.md lists the deviations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import kd_divergence
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class MlkdConfig(LogitConfig):
    """Settings of `mlkd`; the defaults are those of the authors' code."""

    weight: float = Field(0.9, ge=0, description="weight of the term in the sum that is minimized")
    temperatures: tuple[Temperature, ...] = Field(
        TEMPERATURES,
        min_length=1,
        description="temperatures of both distributions; their losses are added up",
    )

    @property
    def temperature(self) -> float:
        """The mean temperature, for figures that need a single one."""
        return sum(self.temperatures) / len(self.temperatures)


@TERMS.register("mlkd", "agreement of predictions by image, batch and class (Jin et al. 2023)")
class Mlkd(Term):
    """See `mlkd_loss`."""

    Config = MlkdConfig
    # Gram matrices are quadratic in the target's probabilities.
    linear = False
    compares_images = True

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        temperatures = self.config.temperatures
        return Loss(mlkd_loss(student.logits_BC, target.logits_BC, temperatures, target.weight_B))


def mlkd_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``Σ_T (T² · mean_B KL + ‖P Pᵀ − S Sᵀ‖² / B + ‖Pᵀ P − Sᵀ S‖² / C)``.

    P and S (B × C) are the probabilities softmax(z / T) of teacher and student for the images of a batch. The
    three parts compare single predictions, similarities between images, and correlations between classes.

    With weights w, KL is multiplied by w, and the rows of P and S by w^¼. So an image of weight 0 takes no
    part, and a weight that all images share is a factor of the loss.

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits; they receive no gradient.
        temperatures: the values of T.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: a temperature is not a positive finite number.

    Example:
        >>> logits_BC = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
        >>> float(mlkd_loss(logits_BC, logits_BC))
        0.0
        >>> float(mlkd_loss(logits_BC, logits_BC.flip(1))) > 0
        True
    """
    student_BC, teacher_BC = at_least_fp32(student_BC), at_least_fp32(teacher_BC.detach())
    total = student_BC.new_zeros(())
    for temperature in temperatures:
        total = total + kd_divergence(student_BC, teacher_BC, temperature, weight_B)
        total = total + _relations(student_BC / temperature, teacher_BC / temperature, weight_B)
    return total


def _relations(student_BC: Tensor, teacher_BC: Tensor, weight_B: Tensor | None) -> Tensor:
    """The parts that compare images with each other, and classes with each other."""
    images, classes = student_BC.shape
    student_BC, teacher_BC = student_BC.softmax(dim=1), teacher_BC.softmax(dim=1)
    if weight_B is not None:
        factor_B1 = weight_B.to(student_BC.dtype).pow(0.25)[:, None]
        student_BC, teacher_BC = factor_B1 * student_BC, factor_B1 * teacher_BC
    # Autocast would compute the products in a lower precision.
    with torch.autocast(student_BC.device.type, enabled=False):
        between_BB = teacher_BC @ teacher_BC.T - student_BC @ student_BC.T
        between_CC = teacher_BC.T @ teacher_BC - student_BC.T @ student_BC
    return between_BB.square().sum() / images + between_CC.square().sum() / classes
