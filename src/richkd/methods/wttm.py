"""Weighted transformed teacher matching: the student without a temperature follows the softened teacher.

Source: Zheng and Yang, "Knowledge distillation based on transformed teacher matching", ICLR 2024, section 4.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import weighted_mean
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term


class WttmConfig(LogitConfig):
    """Settings of `wttm`; the paper tunes both for each pair, the defaults are an example of its authors."""

    weight: float = Field(4.0, ge=0, description="weight of the term in the sum that is minimized")
    temperature: Temperature = Field(5.0, description="temperature of the target; the student has none")


@TERMS.register("wttm", "the softened target, weighted by its softness (Zheng and Yang 2024)")
class Wttm(Term):
    """See `wttm_loss`. The softened target enters linearly, as in `kd`: ``−Σ p^(1/T) log q`` + constant."""

    Config = WttmConfig

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        temperature = self.config.temperature
        return Loss(wttm_loss(student.logits_BC, target.logits_BC, temperature, target.weight_B))


def wttm_loss(
    student_BC: Tensor, teacher_BC: Tensor, temperature: float = 5.0, weight_B: Tensor | None = None
) -> Tensor:
    """``mean_B w · U · KL(p_T ‖ q)``, in nats, without a factor T².

    p and q are the probabilities of teacher and student at temperature 1. ``U = Σ_c p_c^(1/T)`` is between 1,
    for a teacher that is certain, and C^(1 − 1/T), and ``p_T = p^(1/T) / U`` is the teacher's distribution at
    temperature T. So images of which the teacher is less certain count more. U = 1 gives TTM.

    Args:
        student_BC: logits of the student.
        teacher_BC: logits of the teacher; no gradient.
        temperature: T > 0; the paper's exponent γ is 1/T.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> teacher_BC = torch.tensor([[3.0, 0.0, -3.0]])
        >>> abs(round(float(wttm_loss(teacher_BC / 2, teacher_BC, temperature=2.0)), 6))
        0.0
        >>> float(wttm_loss(teacher_BC, teacher_BC, temperature=2.0)) > 0
        True
    """
    check_temperature(temperature)
    powers_log_BC = at_least_fp32(teacher_BC.detach()).log_softmax(dim=1) / temperature
    softness_log_B = powers_log_BC.logsumexp(dim=1)
    soft_log_BC = powers_log_BC - softness_log_B[:, None]
    student_log_BC = at_least_fp32(student_BC).log_softmax(dim=1)
    divergence_B = F.kl_div(student_log_BC, soft_log_BC, reduction="none", log_target=True).sum(dim=1)
    loss_B = softness_log_B.exp() * divergence_B
    return weighted_mean(loss_B, weight_B)
