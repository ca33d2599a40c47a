"""Which intermediate maps of student and teacher are compared, and at which resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.methods.term import Shape

Stages = Literal["last", "middle", "all"]
STAGES_HELP = "which pairs of stages are compared: the last one, the one in the middle, or all"


def pair_stages(student: Sequence[Shape], teacher: Sequence[Shape]) -> tuple[tuple[int, int], ...]:
    """Positions of maps of student and teacher that are compared, from early to late.

    Both networks are reduced to their stages (`stages_of`), and as many of each are paired as the one with
    fewer has. Pyramids are paired from their last stage backwards. A network of constant resolution, such as
    a ViT, takes part with evenly spaced blocks.

    Args:
        student, teacher: channels, height and width of each map, first map first.

    Example:
        >>> resnet = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
        >>> pair_stages(resnet, [(8, 64, 64), *resnet])
        ((0, 1), (1, 2), (2, 3))
        >>> vit = [(192, 8, 8)] * 12
        >>> pair_stages(resnet, vit)
        ((0, 3), (1, 7), (2, 11))
    """
    student_stages, teacher_stages = stages_of(student), stages_of(teacher)
    count = min(len(student_stages), len(teacher_stages))
    return tuple(
        zip(_last(student_stages, student, count), _last(teacher_stages, teacher, count), strict=True)
    )


def choose_pairs(pairs: Sequence[tuple[int, int]], stages: Stages) -> tuple[tuple[int, int], ...]:
    """The pairs of maps that a term compares; of an even number of pairs, the middle is the earlier one.

    Example:
        >>> pairs = ((0, 1), (1, 2), (2, 3), (3, 4))
        >>> choose_pairs(pairs, "middle"), choose_pairs(pairs, "last")
        (((1, 2),), ((3, 4),))
    """
    if stages == "all":
        return tuple(pairs)
    place = len(pairs) - 1 if stages == "last" else (len(pairs) - 1) // 2
    return (pairs[place],)


def to_smaller_size(student_BFHW: Tensor, teacher_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and the smaller width, in float32 or higher; the teacher's is detached.

    A larger map is averaged (adaptive average pooling).

    Example:
        >>> import torch
        >>> student, teacher = to_smaller_size(torch.tensor([[[[1.0, 3.0]]]]), torch.ones(1, 5, 1, 1))
        >>> student.tolist(), tuple(teacher.shape)
        ([[[[2.0]]]], (1, 5, 1, 1))
    """
    return same_size(at_least_fp32(student_BFHW), at_least_fp32(teacher_BFHW.detach()))


def stages_of(maps: Sequence[Shape]) -> list[int]:
    """The last map of every resolution; all maps of a network with one resolution.

    Example:
        >>> stages_of([(16, 32, 32), (24, 16, 16), (32, 16, 16), (64, 8, 8)])
        [0, 2, 3]
        >>> stages_of([(192, 8, 8)] * 3)
        [0, 1, 2]
    """
    if _is_flat(maps):
        return list(range(len(maps)))
    following = [*maps[1:], (0, 0, 0)]
    return [
        place
        for place, (shape, after) in enumerate(zip(maps, following, strict=True))
        if shape[1:] != after[1:]
    ]


def same_size(student_BFHW: Tensor, teacher_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, averaged to the smaller height and width of the two, in the precision that each has.

    Example:
        >>> import torch
        >>> [tuple(m.shape) for m in same_size(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 4))]
        [(1, 3, 4, 4), (1, 5, 4, 4)]
    """
    size = smaller_size(student_BFHW, teacher_BFHW)
    return F.adaptive_avg_pool2d(student_BFHW, size), F.adaptive_avg_pool2d(teacher_BFHW, size)


def smaller_size(student_BFHW: Tensor, teacher_BFHW: Tensor) -> tuple[int, int]:
    """The smaller height and the smaller width of two maps.

    Example:
        >>> import torch
        >>> smaller_size(torch.zeros(1, 3, 8, 2), torch.zeros(1, 5, 4, 4))
        (4, 2)
    """
    height, width = (min(student_BFHW.shape[d], teacher_BFHW.shape[d]) for d in (2, 3))
    return height, width


def _is_flat(maps: Sequence[Shape]) -> bool:
    return len({shape[1:] for shape in maps}) == 1


def _last(stages: list[int], maps: Sequence[Shape], count: int) -> list[int]:
    """The last stages of a pyramid, or evenly spaced blocks of a network of one resolution."""
    if not _is_flat(maps):
        return stages[len(stages) - count :]
    return [stages[(number + 1) * len(stages) // count - 1] for number in range(count)]
