"""Negatives of other classes, drawn as a function of (seed, step), and banks that move."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from richkd.core.errors import ConfigError, DataError
from richkd.losses import negatives
from tests.losses.test_contrast import random_unit
from tests.reference import losses as slow


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=3, max_size=8).filter(lambda sizes: sum(n > 0 for n in sizes) > 1)
)
def test_negatives_cover_exactly_the_other_classes(sizes: list[int]) -> None:
    labels_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows_N, starts_C, sizes_C = negatives.rows_by_class(labels_N, len(sizes))
    assert rows_N.tolist() == list(range(len(labels_N)))
    for label, size in enumerate(sizes):
        # Draws at even distances over their whole range: every other row must be hit exactly twice.
        others = len(labels_N) - size
        draws_BK = (torch.arange(2 * others)[None] + 0.5).double().mul(2**31 / (2 * others)).long()
        drawn = negatives.negative_rows(torch.tensor([label]), starts_C, sizes_C, draws_BK)[0].tolist()
        expected = [row for row, other in enumerate(labels_N.tolist()) if other != label]
        assert sorted(drawn) == sorted(expected * 2)


def test_drawn_negatives_are_uniform_and_never_of_the_own_class() -> None:
    labels_N = torch.randint(5, (60,), generator=torch.Generator().manual_seed(0))
    rows_N, starts_C, sizes_C = negatives.rows_by_class(labels_N, 5)
    sorted_labels_N = labels_N[rows_N.argsort()]
    labels_B = torch.arange(5)
    rows_BK = negatives.negative_rows(labels_B, starts_C, sizes_C, negatives.draw(0, 0, (5, 20_000), "cpu"))
    assert rows_BK.dtype == torch.int64
    for label, rows_K in zip(labels_B, rows_BK, strict=True):
        counts_N = torch.bincount(rows_K, minlength=60)
        same_N = sorted_labels_N == label
        assert counts_N[same_N].sum() == 0
        assert stats.chisquare(counts_N[~same_N].numpy()).pvalue > 1e-3


def test_rows_by_class_sorts_stably() -> None:
    rows_N, starts_C, sizes_C = negatives.rows_by_class(torch.tensor([2, 0, 2, 0, 3]), 4)
    assert rows_N.tolist() == [2, 0, 3, 1, 4]
    assert starts_C.tolist() == [0, 2, 2, 4]
    assert sizes_C.tolist() == [2, 0, 2, 1]
    with pytest.raises(DataError, match="at least two classes"):
        negatives.rows_by_class(torch.tensor([1, 1]), 3)


@pytest.mark.parametrize("sizes", [[0, 2, 0], [3], [0, 0]])
def test_images_of_fewer_than_two_classes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(DataError, match=f"{sum(sizes)} images, all of one class"):
        negatives.refuse_one_class(torch.tensor(sizes))


def test_draws_are_a_function_of_seed_and_step() -> None:
    first = negatives.draw(1, 5, (3, 40), "cpu")
    torch.manual_seed(123)
    assert torch.equal(first, negatives.draw(1, 5, (3, 40), "cpu"))
    assert first.dtype == torch.int64
    assert int(first.min()) >= 0
    assert 2**30 < int(first.max()) < 2**31
    for other in (negatives.draw(1, 6, (3, 40), "cpu"), negatives.draw(2, 5, (3, 40), "cpu")):
        assert not (other == first).any()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(0, 999))
def test_update_equals_the_loop(momentum: float, seed: int) -> None:
    bank_ND, v_BD = random_unit(6, 3, seed), random_unit(2, 3, seed + 1).requires_grad_()
    rows_B = torch.tensor([4, 1])
    expected = slow.update_bank(bank_ND, rows_B, v_BD, momentum)
    negatives.update_bank(bank_ND, rows_B, v_BD, momentum)
    assert not bank_ND.requires_grad
    torch.testing.assert_close(bank_ND, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_initial_bank() -> None:
    bank_ND = negatives.initial_bank(2000, 48, seed=3)
    assert bank_ND.shape == (2000, 48)
    assert bank_ND.dtype == torch.float32
    # 96,000 values uniform in ±1/4, and rows whose mean squared length is 1.
    assert stats.kstest(bank_ND.flatten().numpy() * 2 + 0.5, "uniform").pvalue > 1e-3
    assert bank_ND.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(bank_ND, negatives.initial_bank(2000, 48, seed=3))
    assert not torch.equal(bank_ND, negatives.initial_bank(2000, 48, seed=4))


def test_a_momentum_outside_of_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="momentum"):
        negatives.update_bank(torch.eye(3), torch.tensor([0]), torch.eye(3)[:1], 1.5)
