"""What is added up over processes: gradients, numbers and flags."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from richkd.training import reduction
from richkd.training.reduction import Flags, add_up


class Twice:
    """Two processes with equal numbers: every sum is twice the own number."""

    def __init__(self) -> None:
        self.messages: list[int] = []

    def all_reduce(self, tensor: Tensor) -> None:
        self.messages.append(tensor.numel())
        tensor.mul_(2)


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> Twice:
    group: Any = Twice()
    monkeypatch.setattr(reduction, "dist", group)
    monkeypatch.setattr(reduction, "world", lambda: 2)
    return group


def parameters() -> list[nn.Parameter]:
    shapes = [(3, 4, 2, 2), (5,), (), (2, 3)]
    types = [torch.float32, torch.float32, torch.float32, torch.float64]
    made = [nn.Parameter(torch.randn(shape).to(kind)) for shape, kind in zip(shapes, types, strict=True)]
    for parameter in made[:2] + made[3:]:
        parameter.grad = torch.randn_like(parameter)
    made[0].grad = torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)
    return made


@pytest.mark.parametrize(("bucket", "messages"), [(1, 4), (1000, 3)])
def test_gradients_numbers_and_flags_are_sums(
    bucket: int, messages: int, twice: Twice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "BUCKET", bucket)
    made = parameters()
    before = [None if p.grad is None else p.grad.clone() for p in made]
    flags = Flags(stop=True)
    numbers = add_up(made, torch.tensor([1.0, 5.0]), flags)
    assert numbers.tolist() == [2.0, 10.0]
    assert (flags.stop, flags.unreadable) == (True, False)
    for parameter, gradient in zip(made, before, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, 2 * gradient)
    # Types cannot be sent together: float32, float64, then the numbers.
    assert len(twice.messages) == messages


def test_a_number_that_is_not_finite_stays_so(twice: Twice) -> None:
    numbers = add_up([], torch.tensor([float("nan"), 1.0]), Flags())
    assert numbers.isfinite().tolist() == [False, True]
