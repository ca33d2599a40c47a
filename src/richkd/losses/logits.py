"""Losses on class logits: cross-entropy with the labels, and divergence from a teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import UNLABELED


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the labels, in nats: the supervised term of every method.

    −mean_B Σ_c q_c log softmax(z)_c with q = (1−s)·onehot(y) + s/C, where s is ``label_smoothing`` in
    [0, 1]. An image without a label (−1) adds zero to this mean, and counts in B. Computed in float32
    whatever the input, or in float64 where the input is. Label smoothing: Szegedy et al. 2016, "Rethinking
    the Inception architecture".
    """
    total = F.cross_entropy(
        at_least_fp32(logits_BC),
        labels_B.long(),
        label_smoothing=label_smoothing,
        ignore_index=UNLABELED,
        reduction="sum",
    )
    return total / len(labels_B)


def kd_divergence(
    student_BC: Tensor, teacher_BC: Tensor, temperature: float, weight_B: Tensor | None = None
) -> Tensor:
    """Divergence of the student's softened distribution from the teacher's: the logit-matching term.

    T² · mean_B w · KL(softmax(teacher/T) ‖ softmax(student/T)), in nats, with all w = 1 unless
    ``weight_B`` says how far the teacher is to be believed of each image. The factor T² keeps the size of the
    gradient when T changes. The teacher receives no gradient. Computed in float32 or higher. Source:
    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2; term L of
    RichKD, where ``teacher_BC`` holds the fused logits.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    check_temperature(temperature)
    student_log_BC = F.log_softmax(at_least_fp32(student_BC) / temperature, dim=-1)
    teacher_log_BC = F.log_softmax(at_least_fp32(teacher_BC.detach()) / temperature, dim=-1)
    if weight_B is None:
        divergence = F.kl_div(student_log_BC, teacher_log_BC, reduction="batchmean", log_target=True)
    else:
        each_BC = F.kl_div(student_log_BC, teacher_log_BC, reduction="none", log_target=True)
        divergence = (weight_B * each_BC.sum(dim=1)).mean()
    return temperature**2 * divergence
