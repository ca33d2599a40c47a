"""``richkd.distill`` of a module: what its arguments must say."""

from __future__ import annotations

import torch
from torch import nn

import richkd
from tests.fixtures import refusal


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def test_a_module_is_trained_for_a_number_of_epochs() -> None:
    batches = [(torch.rand(8, 3, 2, 2), torch.arange(8) % 5)]
    error = refusal(richkd.distill, linear(), batches, teachers=[linear()], classes=5, size=2)
    assert error.rule == "A training needs a number of epochs"
    assert error.fix == "pass epochs=30."
    history = richkd.distill(linear(), batches, teachers=[linear()], classes=5, size=2, epochs=2)
    assert len(history) == 2
