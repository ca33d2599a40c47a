"""Held-out outputs on which a fusion is fitted: none that are no logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from richkd.core.errors import DataError
from richkd.fusion.held_out import HeldOut
from tests.fixtures import refusal

LABELS = torch.arange(50) % 3
LOGITS = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (LOGITS.softmax(dim=1), "probabilities"),
        (100 * LOGITS.softmax(dim=1), "percentages"),
        (LOGITS.softmax(dim=1).round(decimals=2), "probabilities with 2 decimals"),
    ],
)
def test_probabilities_are_refused_in_every_form(outputs: Tensor, kind: str) -> None:
    error = refusal(HeldOut, ["own"], [outputs], LABELS, "val")
    assert isinstance(error, DataError)
    assert "teacher 'own' does not" in error.rule
    assert error.got is not None
    assert error.got.startswith(f"{kind}: ")


@pytest.mark.parametrize("outputs", [LOGITS, LOGITS.log_softmax(dim=1), LOGITS.relu(), LOGITS + 9])
def test_logits_of_any_kind_are_taken(outputs: Tensor) -> None:
    assert str(HeldOut(["a"], [outputs], LABELS, "val")) == "50 images of val"
