"""Which stages of two networks are compared."""

from __future__ import annotations

import pytest
import torch

from richkd.methods.stages import choose_pairs, pair_stages, stages_of, to_smaller_size

PYRAMID = ((16, 32, 32), (32, 16, 16), (64, 8, 8))
VIT = ((192, 14, 14),) * 12


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (PYRAMID, PYRAMID, ((0, 0), (1, 1), (2, 2))),
        (PYRAMID, ((8, 64, 64), *PYRAMID), ((0, 1), (1, 2), (2, 3))),
        (((8, 64, 64), *PYRAMID), PYRAMID, ((1, 0), (2, 1), (3, 2))),
        (PYRAMID, VIT, ((0, 3), (1, 7), (2, 11))),
        (VIT, PYRAMID, ((3, 0), (7, 1), (11, 2))),
        (VIT, VIT[:6], ((1, 0), (3, 1), (5, 2), (7, 3), (9, 4), (11, 5))),
    ],
)
def test_stages_are_paired(student: tuple, teacher: tuple, pairs: tuple) -> None:  # type: ignore[type-arg]
    assert pair_stages(student, teacher) == pairs


def test_a_stage_ends_where_the_resolution_changes() -> None:
    assert stages_of(((16, 32, 32), (24, 16, 16), (32, 16, 16), (64, 8, 8))) == [0, 2, 3]


@pytest.mark.parametrize(
    ("count", "middle"), [(1, ((0, 0),)), (2, ((0, 0),)), (3, ((1, 1),)), (4, ((1, 1),)), (5, ((2, 2),))]
)
def test_pairs_are_chosen(count: int, middle: tuple[tuple[int, int], ...]) -> None:
    pairs = tuple((place, place) for place in range(count))
    assert choose_pairs(pairs, "middle") == middle
    assert choose_pairs(pairs, "last") == pairs[-1:]
    assert choose_pairs(pairs, "all") == pairs


def test_each_side_is_averaged_to_the_smaller_one() -> None:
    student = torch.arange(8.0).view(1, 1, 2, 4).bfloat16()
    teacher = torch.arange(16.0).view(1, 1, 4, 4)[..., :2].requires_grad_()
    small_student, small_teacher = to_smaller_size(student, teacher)
    assert small_student.tolist() == [[[[0.5, 2.5], [4.5, 6.5]]]]
    assert small_teacher.tolist() == [[[[2.0, 3.0], [10.0, 11.0]]]]
    assert small_student.dtype == torch.float32
    assert not small_teacher.requires_grad
