"""Logit losses of several teachers: the weighted sum of the divergences from each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.losses.weighted import weighted_mean


def weighted_divergence(
    student_BC: Tensor,
    logs: Sequence[Tensor],
    weights_MB: Tensor,
    temperature: float,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``T² · mean_B w · Σ_m w_m · KL(p_m ‖ softmax(student / T))``, in nats, with p_m softened by T.

    Computed in float32 or higher.

    Args:
        student_BC: logits of the student.
        logs: logits or log-probabilities (B, C) of each teacher; no gradient.
        weights_MB: weight w_m of each teacher for each image; they sum to one over the teachers.
        temperature: T > 0.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> student_BC, other_BC = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
        >>> float(weighted_divergence(student_BC, [student_BC, other_BC], first, 4.0))
        0.0
        >>> float(weighted_divergence(student_BC, [student_BC, other_BC], second, 4.0)) > 0
        True
    """
    check_temperature(temperature)
    student_log_BC = F.log_softmax(at_least_fp32(student_BC) / temperature, dim=1)
    loss_B = student_log_BC.new_zeros(len(student_BC))
    for weight_of_teacher_B, teacher_BC in zip(weights_MB, logs, strict=True):
        teacher_log_BC = softened(teacher_BC, temperature)
        each_BC = F.kl_div(student_log_BC, teacher_log_BC, reduction="none", log_target=True)
        loss_B = loss_B + weight_of_teacher_B * each_BC.sum(dim=1)
    return temperature**2 * weighted_mean(loss_B, weight_B)


def softened(teacher_BC: Tensor, temperature: float) -> Tensor:
    """``log softmax(z / T)`` of a teacher in float32 or higher, without gradient.

    Log-probabilities may be given for logits: they differ by a constant for each image only.

    Example:
        >>> [round(p, 3) for p in softened(torch.tensor([[0.8, 0.2]]).log(), 2.0).exp()[0].tolist()]
        [0.667, 0.333]
    """
    return F.log_softmax(at_least_fp32(teacher_BC.detach()) / temperature, dim=1)


def shares_of_small(scores_MB: Tensor) -> Tensor:
    """``(1 − s_m / Σ_j s_j) / (M − 1)``: the smaller a teacher's score s ≥ 0, the larger its weight.

    The weights of M teachers sum to one for each image, and are in [0, 1 / (M − 1)]. They are equal for an
    image whose scores are all zero, and one for a single teacher.

    Args:
        scores_MB: score of each teacher for each image.

    Example:
        >>> shares_of_small(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).tolist()
        [[0.75, 0.5], [0.25, 0.5]]
    """
    teachers = len(scores_MB)
    if teachers == 1:
        return torch.ones_like(scores_MB)
    total_B = scores_MB.sum(dim=0)
    known_B = total_B > 0
    parts_MB = scores_MB / total_B.where(known_B, 1.0)
    return ((1 - parts_MB) / (teachers - 1)).where(known_B, 1 / teachers)
