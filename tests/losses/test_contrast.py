"""Contrast with memory banks against the paper's formula in loops, and its promise about memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from richkd.errors import ConfigError, DataError
from richkd.losses import contrast
from richkd.losses.features import normalised
from tests.reference import losses as slow


def random_unit(images: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalised(torch.randn(images, width, generator=generator, dtype=torch.float64))


def random_case(
    batch: int, negatives: int, images: int, width: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student and target embeddings, student and target banks, and rows with the positive first."""
    rows_BK1 = torch.randint(images, (batch, negatives + 1), generator=torch.Generator().manual_seed(seed))
    student_BD, target_BD = (random_unit(batch, width, seed + part) for part in (1, 2))
    student_bank_ND, target_bank_ND = (random_unit(images, width, seed + part) for part in (3, 4))
    return student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1


def in_float32(case: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [x.float() if x.is_floating_point() else x for x in case]


cases = st.builds(
    random_case,
    batch=st.integers(1, 4),
    negatives=st.integers(1, 9),
    images=st.integers(2, 12),
    width=st.integers(1, 6),
    seed=st.integers(0, 999),
)
temperatures = st.floats(0.05, 2)


@settings(max_examples=30, deadline=None)
@given(cases, temperatures)
def test_scores_and_normaliser_equal_the_loops(case: tuple[torch.Tensor, ...], temperature: float) -> None:
    student_BD, _, _, bank_ND, rows_BK1 = case
    expected = slow.bank_scores(student_BD, bank_ND, rows_BK1, temperature)
    scores_BK1 = contrast.bank_scores(student_BD, bank_ND, rows_BK1, temperature)
    torch.testing.assert_close(scores_BK1, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-15)
    z = slow.estimate_normaliser(expected, len(bank_ND))
    assert contrast.estimate_normaliser(scores_BK1, len(bank_ND)).item() == pytest.approx(z, rel=1e-9)
    log_z = contrast.estimate_log_normaliser(scores_BK1.log(), len(bank_ND)).item()
    assert log_z == pytest.approx(math.log(z), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases, temperatures)
def test_loss_equals_the_formula(case: tuple[torch.Tensor, ...], temperature: float) -> None:
    log_z_2 = contrast.contrast_log_normalisers(*case, temperature)
    student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1 = case
    z_2 = tuple(
        slow.estimate_normaliser(slow.bank_scores(v, bank, rows_BK1, temperature), len(bank))
        for v, bank in ((student_BD, target_bank_ND), (target_BD, student_bank_ND))
    )
    assert log_z_2.exp().tolist() == pytest.approx(z_2, rel=1e-9)
    fast = contrast.contrast_loss(*case, log_z_2, temperature).item()
    assert fast == pytest.approx(slow.contrast_loss(*case, z_2, temperature), rel=1e-9)


def test_closed_form_of_equal_scores() -> None:
    # Equal scores: Z = N·score, so P = 1/N everywhere and c = K/N:
    # log P/(P + c) = −log(1 + K), and log c/(P + c) = −log(1 + 1/K).
    images, negatives = 10, 4
    log_scores_BK1 = torch.full((3, negatives + 1), 2.5, dtype=torch.float64)
    log_z = contrast.estimate_log_normaliser(log_scores_BK1, images)
    assert log_z.item() == pytest.approx(2.5 + math.log(images))
    loss = contrast.nce_loss(log_scores_BK1, log_z, images).item()
    assert loss == pytest.approx(math.log(1 + negatives) + negatives * math.log(1 + 1 / negatives), rel=1e-12)


def test_loss_falls_where_the_positive_gains_or_a_negative_loses() -> None:
    log_scores_BK1 = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(contrast.nce_loss(log_scores_BK1, 1.0, 8), log_scores_BK1)
    assert gradient[0, 0] < 0
    assert (gradient[0, 1:] > 0).all()


def test_gradients_reach_both_heads_and_no_bank() -> None:
    student_BD, target_BD, *banks, rows_BK1 = random_case(3, 5, 8, 4, 0)
    log_z_2 = contrast.contrast_log_normalisers(student_BD, target_BD, *banks, rows_BK1, 0.5)
    heads = (student_BD.requires_grad_(), target_BD.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda s, t: contrast.contrast_loss(s, t, *banks, rows_BK1, log_z_2, 0.5), heads
    )
    for bank_ND in banks:
        bank_ND.requires_grad_()
    contrast.contrast_loss(*heads, *banks, rows_BK1, log_z_2, 0.5).backward()
    assert all(head.grad.abs().sum() > 0 for head in heads)
    assert all(bank_ND.grad is None for bank_ND in banks)


def test_a_tiny_temperature_does_not_overflow() -> None:
    # exp(1/0.002) overflows float64; its logarithm is 500.
    student_BD, target_BD, *banks, rows_BK1 = in_float32(random_case(4, 6, 9, 3, 1))
    student_BD.requires_grad_()
    log_z_2 = contrast.contrast_log_normalisers(student_BD, target_BD, *banks, rows_BK1, 0.002)
    loss = contrast.contrast_loss(student_BD, target_BD, *banks, rows_BK1, log_z_2, 0.002)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student_BD.grad).all()


def test_precision_is_float32_under_autocast() -> None:
    case = random_case(4, 30, 50, 32, 2)
    log_z_2 = contrast.contrast_log_normalisers(*case, 0.07)
    exact = contrast.contrast_loss(*case, log_z_2, 0.07).item()
    single = in_float32(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrast.contrast_loss(*single, log_z_2.float(), 0.07)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=3e-6)
    assert contrast.bank_log_scores(case[0].bfloat16(), single[3], case[4], 0.07).dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gives, also in backward."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_no_tensor_of_batch_by_negatives_by_width_is_built() -> None:
    batch, negatives, images, width = 4, 300, 500, 16
    student_BD, target_BD, *banks, rows_BK1 = random_case(batch, negatives, images, width, 3)
    heads = (student_BD.requires_grad_(), target_BD.requires_grad_())
    with LargestTensor() as seen:
        log_z_2 = contrast.contrast_log_normalisers(*heads, *banks, rows_BK1, 0.07)
        contrast.contrast_loss(*heads, *banks, rows_BK1, log_z_2, 0.07).backward()
    assert seen.elements <= max(batch * images, images * width, batch * (negatives + 1))
    # The counter does see what is to be avoided.
    with LargestTensor() as seen:
        torch.einsum("bkd,bd->bk", banks[0][rows_BK1], heads[0]).sum().backward()
    assert seen.elements >= batch * (negatives + 1) * width


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=3, max_size=8).filter(lambda sizes: sum(n > 0 for n in sizes) > 1)
)
def test_negatives_cover_exactly_the_other_classes(sizes: list[int]) -> None:
    labels_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows_N, starts_C, sizes_C = contrast.rows_by_class(labels_N, len(sizes))
    assert rows_N.tolist() == list(range(len(labels_N)))
    for label, size in enumerate(sizes):
        # Each draw in [0, 2·(N − n_y)) once: every other row must be hit exactly twice.
        others = len(labels_N) - size
        draws_BK = torch.arange(2 * others)[None]
        drawn = contrast.negative_rows(torch.tensor([label]), starts_C, sizes_C, draws_BK)[0].tolist()
        expected = [row for row, other in enumerate(labels_N.tolist()) if other != label]
        assert sorted(drawn) == sorted(expected * 2)


def test_drawn_negatives_are_uniform_and_never_of_the_own_class() -> None:
    labels_N = torch.randint(5, (60,), generator=torch.Generator().manual_seed(0))
    rows_N, starts_C, sizes_C = contrast.rows_by_class(labels_N, 5)
    sorted_labels_N = labels_N[rows_N.argsort()]
    labels_B = torch.arange(5)
    rows_BK = contrast.negative_rows(labels_B, starts_C, sizes_C, contrast.draw(0, 0, (5, 20_000), "cpu"))
    assert rows_BK.dtype == torch.int64
    for label, rows_K in zip(labels_B, rows_BK, strict=True):
        counts_N = torch.bincount(rows_K, minlength=60)
        own_N = sorted_labels_N == label
        assert counts_N[own_N].sum() == 0
        assert stats.chisquare(counts_N[~own_N].numpy()).pvalue > 1e-3


def test_rows_by_class_sorts_stably() -> None:
    rows_N, starts_C, sizes_C = contrast.rows_by_class(torch.tensor([2, 0, 2, 0, 3]), 4)
    assert rows_N.tolist() == [2, 0, 3, 1, 4]
    assert starts_C.tolist() == [0, 2, 2, 4]
    assert sizes_C.tolist() == [2, 0, 2, 1]
    with pytest.raises(DataError, match="at least two classes"):
        contrast.rows_by_class(torch.tensor([1, 1]), 3)


def test_draws_are_a_function_of_seed_and_step() -> None:
    first = contrast.draw(1, 5, (3, 40), "cpu")
    torch.manual_seed(123)
    assert torch.equal(first, contrast.draw(1, 5, (3, 40), "cpu"))
    assert first.dtype == torch.int64
    assert int(first.min()) >= 0
    assert 2**61 < int(first.max()) < 2**62
    for other in (contrast.draw(1, 6, (3, 40), "cpu"), contrast.draw(2, 5, (3, 40), "cpu")):
        assert not (other == first).any()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(0, 999))
def test_update_equals_the_loop(momentum: float, seed: int) -> None:
    bank_ND, v_BD = random_unit(6, 3, seed), random_unit(2, 3, seed + 1).requires_grad_()
    rows_B = torch.tensor([4, 1])
    expected = slow.update_bank(bank_ND, rows_B, v_BD, momentum)
    contrast.update_bank(bank_ND, rows_B, v_BD, momentum)
    assert not bank_ND.requires_grad
    torch.testing.assert_close(bank_ND, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_initial_bank() -> None:
    bank_ND = contrast.initial_bank(2000, 48, seed=3)
    assert bank_ND.shape == (2000, 48)
    assert bank_ND.dtype == torch.float32
    # 96,000 values uniform in ±1/4, and rows whose mean squared length is 1.
    assert stats.kstest(bank_ND.flatten().numpy() * 2 + 0.5, "uniform").pvalue > 1e-3
    assert bank_ND.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(bank_ND, contrast.initial_bank(2000, 48, seed=3))
    assert not torch.equal(bank_ND, contrast.initial_bank(2000, 48, seed=4))


def test_settings_are_checked() -> None:
    bank_ND, rows_B = torch.eye(3), torch.tensor([0])
    with pytest.raises(ConfigError, match="temperature"):
        contrast.bank_log_scores(bank_ND, bank_ND, torch.zeros(3, 1, dtype=torch.int64), 0.0)
    with pytest.raises(ConfigError, match="momentum"):
        contrast.update_bank(bank_ND, rows_B, bank_ND[:1], 1.5)
