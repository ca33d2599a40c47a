"""Equal shares of the teachers."""

from __future__ import annotations

import pytest

from richkd.fusion.shares import equal_shares


@pytest.mark.parametrize("teachers", [1, 2, 3, 7])
def test_equal_shares_sum_to_one(teachers: int) -> None:
    shares = equal_shares(teachers)
    assert len(shares) == teachers
    assert len(set(shares)) == 1
    assert sum(shares) == pytest.approx(1.0)
