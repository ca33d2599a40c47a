"""The squared error of each image, and the weighted mean over images."""

from __future__ import annotations

from torch import Tensor

from richkd.core.numerics import at_least_fp32


def weighted_mean(loss_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """``mean_B w · loss``: the losses of the images of a batch as one number.

    The divisor is the number of images, not the sum of the weights: an image of weight 0 counts in it.

    Args:
        loss_B: the loss of each image.
        weight_B: weight w of each image; None for w = 1.

    Example:
        >>> import torch
        >>> loss_B = torch.tensor([1.0, 3.0])
        >>> float(weighted_mean(loss_B, None)), float(weighted_mean(loss_B, torch.tensor([1.0, 0.0])))
        (2.0, 0.5)
    """
    return (loss_B if weight_B is None else weight_B * loss_B).mean()


def squared_error(student_BX: Tensor, teacher_BX: Tensor) -> Tensor:
    """``mean (s − t)²`` of each image over all its numbers, shape (B), in float32 or higher.

    Args:
        student_BX: s, maps (B, channels, H, W) or features (B, channels) of the student.
        teacher_BX: t, those of the teacher, of the same shape; no gradient.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(2, 2), torch.tensor([[0.0, 2.0], [3.0, 3.0]])).tolist()
        [2.0, 9.0]
    """
    difference_BX = at_least_fp32(student_BX) - at_least_fp32(teacher_BX.detach())
    return difference_BX.square().flatten(1).mean(dim=1)
