"""Decoupled knowledge distillation: the target class and the other classes are matched separately.

Source: Zhao, Cui, Song, Qiu and Liang, "Decoupled knowledge distillation", CVPR 2022, equations 4 to 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.losses.logits import log_softmax_of_others, of_other_classes
from richkd.losses.weighted import weighted_mean
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term


class DkdConfig(LogitConfig):
    """Settings of `dkd`; the defaults are those of the paper for CIFAR-100."""

    of_progress = ("warmup",)

    temperature: Temperature = Field(4.0, description="temperature of both distributions")
    alpha: float = Field(1.0, ge=0, description="weight of the target class against all others (TCKD)")
    beta: float = Field(8.0, ge=0, description="weight of the distribution over the other classes (NCKD)")
    warmup: float = Field(
        1 / 12,
        ge=0,
        le=1,
        description="fraction of the run in which the weight rises linearly (20 of 240 epochs)",
    )


@TERMS.register("dkd", "decoupled distillation: target class and other classes apart (Zhao et al. 2022)")
class Dkd(Term):
    """See `dkd_loss`."""

    Config = DkdConfig
    # The target class splits the distribution, so two targets cannot be averaged after the fact.
    linear = False

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        config: DkdConfig = self.config
        value = dkd_loss(
            student.logits_BC,
            target.logits_BC,
            batch.labels_B,
            temperature=config.temperature,
            alpha=config.alpha,
            beta=config.beta,
            weight_B=target.weight_B,
        )
        return Loss(value * warmup_factor(context.progress, config.warmup))


def dkd_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    labels_B: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``T² · mean_B (alpha · TCKD + beta · NCKD)``, in nats.

    With p = softmax(z / T) and the image's class y: TCKD is KL between (p_y, 1 − p_y) of teacher and
    student; NCKD is KL between the teacher's and the student's distributions over all classes but y, ``p_c /
    (1 − p_y)``. Plain KD is alpha = 1 and beta = 1 − p_y of the teacher, so that it neglects the other
    classes where the teacher is confident.

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits; they receive no gradient.
        labels_B: class of each image; for an image without a label (−1), the teacher's most probable class.
        temperature: T.
        alpha: weight of TCKD.
        beta: weight of NCKD.
        weight_B: weight of each image in [0, 1]; 1 if None.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> round(float(dkd_loss(logits, logits, torch.tensor([0]))), 6)
        0.0
        >>> float(dkd_loss(logits, logits.flip(1), torch.tensor([0]))) > 0
        True
    """
    check_temperature(temperature)
    teacher_BC = at_least_fp32(teacher_BC.detach()) / temperature
    student_BC = at_least_fp32(student_BC) / temperature
    class_B = torch.where(labels_B == UNLABELED, teacher_BC.argmax(dim=1), labels_B.long())
    binary = _kl(_target_or_other(teacher_BC, class_B), _target_or_other(student_BC, class_B))
    others = _kl(log_softmax_of_others(teacher_BC, class_B), log_softmax_of_others(student_BC, class_B))
    loss_B = alpha * binary + beta * others
    return temperature**2 * weighted_mean(loss_B, weight_B)


def warmup_factor(progress: float, warmup: float) -> float:
    """Rises linearly from 0 to 1 while ``progress`` goes from 0 to ``warmup``.

    Example:
        >>> warmup_factor(0.1, 0.2), warmup_factor(0.5, 0.2), warmup_factor(0.0, 0.0)
        (0.5, 1.0, 1.0)
    """
    return 1.0 if progress >= warmup else progress / warmup


def _target_or_other(logits_BC: Tensor, class_B: Tensor) -> Tensor:
    """Log-probabilities (B, 2) of the image's class and of all others together."""
    log_BC = logits_BC.log_softmax(dim=1)
    other_B1 = of_other_classes(log_BC, class_B).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_BC.gather(1, class_B[:, None]), other_B1], dim=1)


def _kl(teacher_BX: Tensor, student_BX: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each row (B), from log-probabilities."""
    return F.kl_div(student_BX, teacher_BX, reduction="none", log_target=True).sum(dim=1)
