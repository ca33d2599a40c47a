"""DIST: probabilities of student and teacher correlate within each image and within each class.

Source: Huang, You, Wang, Qian and Xu, "Knowledge distillation from a stronger teacher", NeurIPS 2022,
section 3 (inter-class and intra-class relations).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import Batch, Output, Target
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term

# Deviations of smaller norm than this count as none.
SMALLEST_NORM = 1e-8
# Deviations below this many units of rounding of their row count as none, too.
ROUNDING = 10


class DistConfig(LogitConfig):
    """Settings of `dist`; the defaults are those of the paper for CIFAR-100."""

    temperature: Temperature = Field(4.0, description="temperature of both distributions")
    beta: float = Field(2.0, ge=0, description="weight of the correlation over the classes of an image")
    gamma: float = Field(2.0, ge=0, description="weight of the correlation over the images, for each class")


@TERMS.register("dist", "correlation of probabilities over classes and over images (Huang et al. 2022)")
class Dist(Term):
    """See `dist_loss`."""

    Config = DistConfig
    # A correlation is not linear in the target.
    linear = False
    compares_images = True

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        value = dist_loss(
            student.logits_BC,
            target.logits_BC,
            temperature=self.config.temperature,
            beta=self.config.beta,
            gamma=self.config.gamma,
            weight_B=target.weight_B,
        )
        return Loss(value)


def dist_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    *,
    temperature: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``T² · (beta · mean_B (1 − ρ_b) + gamma · mean_C (1 − ρ_c))`` with Pearson correlations ρ.

    With p = softmax(z / T) of student and teacher: ρ_b compares the probabilities of image b over the
    classes (inter-class relation), ρ_c those of class c over the images of the batch (intra-class relation).

    With weights w, the first mean is ``mean_B w_b (1 − ρ_b)``. ρ_c is the correlation weighted with w, and
    the second mean is multiplied by the mean of w. So an image of weight 0 takes no part, and a weight that
    all images share is a factor of the loss.

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits; they receive no gradient.
        temperature: T.
        beta: weight of the inter-class relation.
        gamma: weight of the intra-class relation.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> logits_BC = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
        >>> abs(round(float(dist_loss(logits_BC, logits_BC)), 4))
        0.0
        >>> float(dist_loss(logits_BC, logits_BC.flip(1))) > 0
        True
    """
    check_temperature(temperature)
    student_BC = (at_least_fp32(student_BC) / temperature).softmax(dim=1)
    teacher_BC = (at_least_fp32(teacher_BC.detach()) / temperature).softmax(dim=1)
    weight_B = student_BC.new_ones(len(student_BC)) if weight_B is None else weight_B.to(student_BC.dtype)
    equal_C = torch.ones_like(student_BC[0])
    inter = (weight_B * (1 - pearson(student_BC, teacher_BC, equal_C))).mean()
    intra = weight_B.mean() * (1 - pearson(student_BC.T, teacher_BC.T, weight_B)).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def pearson(first_RX: Tensor, second_RX: Tensor, weight_X: Tensor) -> Tensor:
    """Pearson correlation (R) of each row of two matrices; the weights belong to the columns.

    A row without deviations, but for rounding, has the correlation 0, and the gradient of its deviations
    relative to the norm of the row. Pearson's correlation would have a gradient without limit.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
        >>> [round(rho, 4) for rho in pearson(rows, 2 * rows + 1, torch.ones(3)).tolist()]
        [1.0, 0.0]
    """
    # Without any weight, the shares are zero, and so are all deviations.
    share_X = weight_X / weight_X.sum().clamp_min(torch.finfo(weight_X.dtype).tiny)
    root_X = weight_X.sqrt()
    units = []
    for values_RX in (first_RX, second_RX):
        mean_R1 = (share_X * values_RX).sum(dim=1, keepdim=True)
        deviations_RX = root_X * (values_RX - mean_R1)
        units.append(deviations_RX / _divisor(deviations_RX, root_X * values_RX))
    return (units[0] * units[1]).sum(dim=1)


def _divisor(deviations_RX: Tensor, values_RX: Tensor) -> Tensor:
    """The norm (R, 1) of each row's deviations, or that of the row where they are only rounding errors."""
    size_R1 = torch.linalg.vector_norm(values_RX.detach(), dim=1, keepdim=True)
    norm_R1 = torch.linalg.vector_norm(deviations_RX, dim=1, keepdim=True)
    constant_R1 = norm_R1 <= ROUNDING * torch.finfo(norm_R1.dtype).eps * size_R1
    return torch.where(constant_R1, size_R1, norm_R1).clamp_min(SMALLEST_NORM)
