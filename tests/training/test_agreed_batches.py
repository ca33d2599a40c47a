"""Batches are read one step ahead, so that an error is known before the step that it concerns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from richkd.core.errors import DataError
from richkd.core.types import Batch
from richkd.training.agreed_batches import agreed_on
from richkd.training.reduction import Flags


def batch(number: int) -> Batch:
    return Batch("train", torch.tensor([number]), torch.zeros(1, 2, 2, 3), torch.zeros(1))


def batches(count: int, fails: bool) -> Iterator[Batch]:
    yield from map(batch, range(count))
    if fails:
        raise DataError("Image 7.png must be readable")


@pytest.mark.parametrize("count", [0, 1, 4])
def test_all_batches_come_in_order(count: int) -> None:
    flags = Flags()
    seen = []
    for one in agreed_on(batches(count, fails=False), flags):
        seen.append(int(one.index_B))
        assert not flags.unreadable
    assert seen == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_an_error_is_told_in_the_step_before_and_raised_after_it(count: int) -> None:
    flags = Flags()
    read = agreed_on(batches(count, fails=True), flags)
    for number in range(count):
        assert int(next(read).index_B) == number
        assert flags.unreadable == (number == count - 1)
    with pytest.raises(DataError, match=r"7\.png"):
        next(read)
