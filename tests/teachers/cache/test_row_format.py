"""Packed outputs: what comes back, what it costs, and what cannot be kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.core.types import Output
from richkd.teachers.cache.row_format import RowFormat, as_stored
from tests.fixtures import refusal


def some(classes: int, features: int, images: int = 5, seed: int = 0) -> Output:
    generator = torch.Generator().manual_seed(seed)
    return Output(
        4 * torch.randn(images, classes, generator=generator),
        torch.randn(images, features, generator=generator),
    )


@given(st.integers(1, 30), st.integers(0, 20), st.integers(1, 6))
def test_dense_rows_return_what_float16_holds_at_two_bytes_a_number(
    classes: int, features: int, images: int
) -> None:
    rows, output = RowFormat(classes, features), some(classes, features, images)
    packed = rows.pack(output)
    assert packed.shape == (images, 2 * (classes + features))
    back, expected = rows.unpack(packed), as_stored(output)
    assert torch.equal(back.logits_BC, expected.logits_BC)
    assert torch.equal(back.feats_BF, expected.feats_BF)


def test_what_was_rounded_once_is_not_changed_again() -> None:
    output = as_stored(some(7, 3))
    again = as_stored(output)
    assert torch.equal(output.logits_BC, again.logits_BC)
    assert torch.equal(output.feats_BF, again.feats_BF)


def slow_top(logits: Tensor, top: int) -> Tensor:
    """The largest logits as they are, and the log of the mean exponential of the others for each other."""
    rows = []
    for row in logits.double().tolist():
        kept = sorted(range(len(row)), key=lambda c: -row[c])[:top]
        others = [math.exp(row[c]) for c in range(len(row)) if c not in kept]
        rest = math.log(sum(others) / len(others)) if others else 0.0
        rows.append([row[c] if c in kept else rest for c in range(len(row))])
    return torch.tensor(rows)


@given(st.integers(2, 20), st.data())
def test_sparse_rows_keep_the_largest_logits_and_the_mass_of_the_others(
    classes: int, data: st.DataObject
) -> None:
    top = data.draw(st.integers(1, classes))
    rows, output = RowFormat(classes, 0, top), some(classes, 0)
    packed = rows.pack(output)
    assert packed.shape[1] == 4 + 4 * top
    back = rows.unpack(packed).logits_BC
    assert torch.allclose(back, slow_top(output.logits_BC, top), atol=0.01)
    # Nearly the same probabilities of the kept classes, because the others' mass is kept.
    kept = output.logits_BC.topk(top, dim=1).indices
    exact, sparse = output.logits_BC.softmax(1).gather(1, kept), back.softmax(1).gather(1, kept)
    assert torch.allclose(exact, sparse, atol=0.01)


def test_sparse_rows_can_keep_features() -> None:
    rows, output = RowFormat(9, 4, top_k=2), some(9, 4)
    assert torch.equal(rows.unpack(rows.pack(output)).feats_BF, output.feats_BF.half().float())
    assert rows.row_bytes == 4 + 4 * 2 + 2 * 4


def test_rows_of_features_alone_have_no_logits() -> None:
    back = RowFormat(0, 6).unpack(RowFormat(0, 6).pack(some(0, 6)))
    assert back.logits_BC.shape == (5, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e5])
@pytest.mark.parametrize("rows", [RowFormat(4, 3), RowFormat(4, 0, top_k=2)])
def test_what_float16_cannot_hold_is_refused(bad: float, rows: RowFormat) -> None:
    output = some(4, 3)
    output.logits_BC[2, 1] = bad
    with pytest.raises(CacheError, match="Outputs of a teacher must be"):
        rows.pack(output)


@pytest.mark.parametrize(("classes", "top"), [(5, 0), (5, 6), (40_000, 3)])
def test_impossible_sparse_rows_are_refused(classes: int, top: int) -> None:
    with pytest.raises(CacheError, match=r"cache\.top_k"):
        RowFormat(classes, 0, top)


@pytest.mark.parametrize("top", [None, 2])
def test_outputs_lie_in_memory_like_computed_ones(top: int | None) -> None:
    rows = RowFormat(classes=3, features=4, top_k=top)
    output = rows.unpack(rows.pack(Output(torch.randn(5, 3), torch.randn(5, 4))))
    # Products of AVX2 processors round otherwise if there are gaps between rows.
    assert output.logits_BC.is_contiguous()
    assert output.feats_BF.is_contiguous()


def test_the_reason_and_the_limit_are_those_of_what_is_stored() -> None:
    output = Output(torch.tensor([[5.0, 0.0, -70_000.0]]), torch.zeros(1, 0))
    large = refusal(RowFormat(3, 0).pack, output)
    assert large.rule == "Outputs of a teacher must be at most 65,504 to be stored in float16"
    assert large.got == "numbers up to 70,000"
    # Only the largest logit is stored here, and float32 holds all of them.
    assert RowFormat(3, 0, top_k=1).pack(output).shape == (1, 8)
    wide = RowFormat(3, 0, wide=True)
    assert torch.equal(wide.unpack(wide.pack(output)).logits_BC, output.logits_BC)
    output.logits_BC[0, 2] = math.nan
    assert refusal(wide.pack, output).rule == "Outputs of a teacher must be finite"


def test_others_without_any_probability_are_refused_as_their_row_could_not_be_read() -> None:
    output = Output(torch.tensor([[5.0, -math.inf, -math.inf]]), torch.zeros(1, 0))
    assert refusal(RowFormat(3, 0, top_k=1).pack, output).got == "NaN or infinity"
