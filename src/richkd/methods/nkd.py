"""Normalized knowledge distillation: the image's class, and the normalized distribution of the other classes.

Source: Yang, Zeng, Li, Zhang, Yuan and Li, "From knowledge distillation to self-knowledge distillation: a
unified approach with normalized loss and customized soft labels", ICCV 2023, section 3.1 (loss L_nkd).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.losses.logits import log_softmax_of_others
from richkd.losses.weighted import weighted_mean
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term


class NkdConfig(LogitConfig):
    """Settings of `nkd`; the defaults are those of the authors' code."""

    temperature: Temperature = Field(
        1.0, description="temperature of the distribution over the other classes"
    )
    gamma: float = Field(1.5, ge=0, description="weight of the distribution over the other classes")


@TERMS.register("nkd", "normalized distillation: the class of the image and the others (Yang et al. 2023)")
class Nkd(Term):
    """See `nkd_loss`."""

    Config = NkdConfig
    # The image's class splits the distribution, so two targets cannot be averaged after the fact.
    linear = False

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        value = nkd_loss(
            student.logits_BC,
            target.logits_BC,
            batch.labels_B,
            temperature=self.config.temperature,
            gamma=self.config.gamma,
            weight_B=target.weight_B,
        )
        return Loss(value)


def nkd_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    labels_B: Tensor,
    *,
    temperature: float = 1.0,
    gamma: float = 1.5,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``mean_B w · (−t_y log s_y − gamma · T² · Σ_{c≠y} t̂_c log ŝ_c)``, in nats.

    t and s are the probabilities of teacher and student at temperature 1, and y is the image's class. t̂ and ŝ
    are softmax(z / T) over the other classes only, so that both sum to one: in plain KD the sums differ, and
    then the cross-entropy is not smallest where both are equal. It is a cross-entropy, not a divergence, so
    the smallest value is not zero.

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits; they receive no gradient.
        labels_B: class of each image; for an image without a label (−1), the teacher's most probable class.
        temperature: T.
        gamma: weight of the other classes.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> student_BC, teacher_BC = torch.zeros(1, 3), torch.tensor([[9.0, 0.0, 0.0]])
        >>> value = nkd_loss(student_BC, teacher_BC, torch.tensor([0]), gamma=2.0)
        >>> round(float(value), 3)  # about ln 3 + 2 ln 2
        2.485
    """
    check_temperature(temperature)
    teacher_BC, student_BC = at_least_fp32(teacher_BC.detach()), at_least_fp32(student_BC)
    class_B = torch.where(labels_B == UNLABELED, teacher_BC.argmax(dim=1), labels_B.long())
    teacher_B1 = teacher_BC.softmax(dim=1).gather(1, class_B[:, None])
    class_loss_B = -(teacher_B1 * student_BC.log_softmax(dim=1).gather(1, class_B[:, None]))[:, 0]
    teacher_log_BX = log_softmax_of_others(teacher_BC / temperature, class_B)
    student_log_BX = log_softmax_of_others(student_BC / temperature, class_B)
    others_B = -(teacher_log_BX.exp() * student_log_BX).sum(dim=1)
    loss_B = class_loss_B + gamma * temperature**2 * others_B
    return weighted_mean(loss_B, weight_B)
