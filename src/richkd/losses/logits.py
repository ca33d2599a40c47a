"""Losses on class logits: cross-entropy with the labels, and KL divergence from a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.core.types import UNLABELED


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy with the labels in nats: the supervised loss term of all methods.

    −mean_B Σ_c q_c log softmax(z)_c with q = (1−s)·onehot(y) + s/C. The loss of an image without a label is
    zero, but the image counts in B. Computed in float32, or in float64 if the logits are float64. Label
    smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture".

    Args:
        logits_BC: logits of the student.
        labels_B: class indices; −1 marks an image without a label.
        label_smoothing: s in [0, 1].

    Example:
        >>> import torch
        >>> logits_BC = torch.zeros(2, 4)
        >>> round(float(cross_entropy(logits_BC, torch.tensor([0, 3]))), 4)  # ln 4
        1.3863
        >>> round(float(cross_entropy(logits_BC, torch.tensor([0, -1]))), 4)  # one image has no label
        0.6931
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
    student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """KL divergence between the softened distributions of teacher and student: the logit loss.

    T² · mean_B w · KL(softmax(teacher/T) ‖ softmax(student/T)), in nats. The factor T² keeps the magnitude of
    the gradient independent of T. Computed in float32 or higher. Source: Hinton, Vinyals and Dean 2015,
    "Distilling the knowledge in a neural network", section 2. This is term L of RichKD, with the fused logits
    as ``teacher_BC``.

    Args:
        student_BC: logits of the student.
        teacher_BC: logits of the teacher; no gradient.
        temperature: T > 0; a tensor without dimensions receives a gradient and is not checked.
        weight_B: weight w ≥ 0 of each image; None for w = 1.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> logits_BC = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> float(kd_divergence(logits_BC, logits_BC, temperature=4.0))
        0.0
        >>> float(kd_divergence(logits_BC, -logits_BC, temperature=4.0)) > 0
        True
    """
    if not isinstance(temperature, Tensor):
        check_temperature(temperature)
    student_log_BC = F.log_softmax(at_least_fp32(student_BC) / temperature, dim=-1)
    teacher_log_BC = F.log_softmax(at_least_fp32(teacher_BC.detach()) / temperature, dim=-1)
    if weight_B is None:
        divergence = F.kl_div(student_log_BC, teacher_log_BC, reduction="batchmean", log_target=True)
    else:
        each_BC = F.kl_div(student_log_BC, teacher_log_BC, reduction="none", log_target=True)
        divergence = (weight_B * each_BC.sum(dim=1)).mean()
    return temperature**2 * divergence


def of_other_classes(values_BC: Tensor, class_B: Tensor) -> Tensor:
    """The values (B, C − 1) of all classes but one for each row, in the order of the classes.

    A mask would do the same, but a GPU has to finish its work before the size of a masked tensor is known.

    Args:
        values_BC: a value for each class.
        class_B: the class that each row leaves out.

    Example:
        >>> of_other_classes(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([0, 2])).tolist()
        [[2.0, 3.0], [4.0, 5.0]]
    """
    others_X = torch.arange(values_BC.shape[1] - 1, device=values_BC.device)
    return values_BC.gather(1, others_X + (others_X >= class_B[:, None]))


def log_softmax_of_others(logits_BC: Tensor, class_B: Tensor) -> Tensor:
    """``log softmax`` (B, C − 1) over all classes but one for each row: ``log p_c / (1 − p_y)``.

    Args:
        logits_BC: class logits.
        class_B: the class y that each row leaves out.

    Example:
        >>> log_softmax_of_others(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0])).exp().tolist()
        [[0.5, 0.5]]
    """
    return of_other_classes(logits_BC, class_B).log_softmax(dim=1)
