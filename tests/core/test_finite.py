"""NaN and infinity are found in weights and outputs, and named."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from richkd.core.errors import NonFiniteError
from richkd.core.finite import non_finite, refuse_non_finite_rows, refuse_non_finite_weights
from tests.fixtures import refusal


@given(st.lists(st.sampled_from([0.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=6))
def test_values_are_counted(values: list[float]) -> None:
    count = sum(not math.isfinite(value) for value in values)
    text = non_finite({"good": torch.ones(2), "numbers": torch.ones(2).long(), "bad": torch.tensor(values)})
    expected = f"{count} of {len(values)} values of tensor 'bad' are NaN or infinite"
    assert text == (expected if count else None)


def test_other_tensors_are_counted() -> None:
    bad = torch.tensor([math.nan])
    assert str(non_finite({"a": bad, "b": bad, "c": bad})).endswith(", and values of 2 other tensors")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["layer.weight", "norm.running_mean", "norm.running_var", "mask"])
def test_weights_and_statistics_must_be_finite_but_masks_are_infinite(name: str, value: float) -> None:
    model = Net()
    refuse_non_finite_weights(model, "The weights x.pth")
    model.state_dict()[name].view(-1)[0] = value
    if name == "mask" and not math.isnan(value):
        refuse_non_finite_weights(model, "The weights x.pth")
        return
    error = refusal(refuse_non_finite_weights, model, "The weights x.pth")
    assert isinstance(error, NonFiniteError)
    assert error.rule == "The weights x.pth must be finite"
    assert f"tensor '{name}'" in str(error.got)


def test_images_are_named() -> None:
    logits_NC = torch.zeros(6, 2)
    logits_NC[1:5, 0] = math.nan
    error = refusal(refuse_non_finite_rows, logits_NC, "teacher big", "{}.png".format, "check it.")
    assert error.rule == "The outputs of teacher big must be finite"
    assert error.got == "NaN or infinity for 4 of 6 images: 1.png, 2.png, 3.png, …"
