"""Which stages of two networks are compared."""

from __future__ import annotations

import pytest

from richkd.methods.stages import pair_stages, stages_of

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
