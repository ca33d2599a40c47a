"""Contrast with memory banks against the paper's formula in loops, and its promise about memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from richkd.core.errors import ConfigError
from richkd.losses import contrast
from richkd.losses.features import normalize
from tests.reference import losses as slow


def random_unit(images: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(images, width, generator=generator, dtype=torch.float64))


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


def log_normalizers(
    student_BD: torch.Tensor,
    target_BD: torch.Tensor,
    student_bank_ND: torch.Tensor,
    target_bank_ND: torch.Tensor,
    rows_BK1: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    scores = contrast.both_bank_log_scores(
        student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1, temperature
    )
    return contrast.log_normalizers_of(scores, len(student_bank_ND))


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
def test_scores_and_normalizer_equal_the_loops(case: tuple[torch.Tensor, ...], temperature: float) -> None:
    student_BD, _, _, bank_ND, rows_BK1 = case
    expected = slow.bank_scores(student_BD, bank_ND, rows_BK1, temperature)
    log_scores_BK1 = contrast.bank_log_scores(student_BD, bank_ND, rows_BK1, temperature)
    torch.testing.assert_close(
        log_scores_BK1.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-15
    )
    z = slow.estimate_normalizer(expected, len(bank_ND))
    log_z = contrast.estimate_log_normalizer(log_scores_BK1, len(bank_ND)).item()
    assert log_z == pytest.approx(math.log(z), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases, temperatures)
def test_loss_equals_the_formula(case: tuple[torch.Tensor, ...], temperature: float) -> None:
    log_z_2 = log_normalizers(*case, temperature)
    student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1 = case
    z_2 = tuple(
        slow.estimate_normalizer(slow.bank_scores(v, bank, rows_BK1, temperature), len(bank))
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
    log_z = contrast.estimate_log_normalizer(log_scores_BK1, images)
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
    log_z_2 = log_normalizers(student_BD, target_BD, *banks, rows_BK1, 0.5)
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
    log_z_2 = log_normalizers(student_BD, target_BD, *banks, rows_BK1, 0.002)
    loss = contrast.contrast_loss(student_BD, target_BD, *banks, rows_BK1, log_z_2, 0.002)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student_BD.grad).all()


def test_autocast_rounds_negatives_a_little_and_positives_not_at_all() -> None:
    case = random_case(8, 300, 400, 64, 2)
    log_z_2 = log_normalizers(*case, 0.07)
    exact = contrast.contrast_loss(*case, log_z_2, 0.07).item()
    single = in_float32(case)
    assert contrast.contrast_loss(*single, log_z_2.float(), 0.07).item() == pytest.approx(exact, rel=3e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrast.contrast_loss(*single, log_z_2.float(), 0.07)
        rough = contrast.bank_log_scores(single[0], single[3], single[4], 0.07)
    assert loss.dtype == rough.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-2)
    scores = contrast.bank_log_scores(case[0], case[3], case[4], 0.07)
    assert (rough[:, 1:] - scores[:, 1:]).abs().max() <= 2**-8 * (scores.abs().max() + 1)
    assert not torch.allclose(rough[:, 1:].double(), scores[:, 1:], atol=1e-5)
    torch.testing.assert_close(rough[:, 0].double(), scores[:, 0], rtol=1e-5, atol=1e-5)
    assert contrast.bank_log_scores(case[0].bfloat16(), single[3], case[4], 0.07).dtype == torch.float32


def slow_shared(
    v_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    rows_KD: torch.Tensor,
    excluded_BK: torch.Tensor,
    temperature: float,
    log_z: float,
    images: int,
) -> float:
    """The formula, one image and one counted row at a time; each counted row stands for K / K_b rows."""
    total, negatives = 0.0, len(rows_KD)
    c = negatives / images
    for v, positive, excluded in zip(v_BD.tolist(), positive_BD.tolist(), excluded_BK.tolist(), strict=True):

        def p(row: list[float], v: list[float] = v) -> float:
            return math.exp(sum(a * b for a, b in zip(row, v, strict=True)) / temperature - log_z)

        counted = [row for row, out in zip(rows_KD.tolist(), excluded, strict=True) if not out]
        total += math.log(p(positive) / (p(positive) + c))
        if counted:
            total += negatives / len(counted) * sum(math.log(c / (p(row) + c)) for row in counted)
    return -total / len(v_BD)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 999), temperatures)
def test_shared_rows_equal_the_loops(
    batch: int, negatives: int, width: int, seed: int, temperature: float
) -> None:
    v_BD, positive_BD = random_unit(batch, width, seed), random_unit(batch, width, seed + 1)
    rows_KD = random_unit(negatives, width, seed + 2)
    excluded_BK = torch.rand(batch, negatives, generator=torch.Generator().manual_seed(seed)) < 0.4
    scores = contrast.shared_log_scores(v_BD, positive_BD, rows_KD, excluded_BK, temperature)
    log_z = contrast.estimate_log_normalizer(scores, 20).item()
    kept = scores[scores > -math.inf]
    assert log_z == pytest.approx(math.log(kept.exp().mean().item() * 20), rel=1e-9, abs=1e-9)
    shares_B = (~excluded_BK).sum(1).clamp(min=1).double() / negatives
    loss = contrast.nce_loss(scores, log_z, 20, shares_B).item()
    expected = slow_shared(v_BD, positive_BD, rows_KD, excluded_BK, temperature, log_z, 20)
    assert loss == pytest.approx(expected, rel=1e-9)


def test_excluded_rows_have_no_influence_and_gradients_are_exact() -> None:
    v_BD, positive_BD, rows_KD = (random_unit(n, 4, n) for n in (3, 3, 6))
    positive_BD = positive_BD[torch.tensor([2, 0, 1])]
    excluded_BK = torch.zeros(3, 6, dtype=torch.bool)
    excluded_BK[:, 1] = excluded_BK[0] = True

    def loss(v_BD: torch.Tensor, rows_KD: torch.Tensor = rows_KD) -> torch.Tensor:
        scores = contrast.shared_log_scores(v_BD, positive_BD, rows_KD, excluded_BK, 0.3)
        return contrast.nce_loss(scores, 2.0, 50, torch.tensor([1 / 6, 5 / 6, 5 / 6]))

    assert torch.autograd.gradcheck(loss, v_BD.requires_grad_())
    changed = rows_KD.clone()
    changed[1] = -changed[1]
    assert torch.equal(loss(v_BD), loss(v_BD, changed))
    changed[2] = -changed[2]
    assert not torch.equal(loss(v_BD), loss(v_BD, changed))


def test_an_images_weight_multiplies_its_loss_in_the_mean_over_all_images() -> None:
    log_scores_BK1 = torch.log(torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).double())
    weight_B = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64)
    each = [slow.nce_loss([row], 2.0, 20) for row in log_scores_BK1.exp().tolist()]
    expected = sum(w * value for w, value in zip(weight_B.tolist(), each, strict=True)) / 3
    weighted = contrast.nce_loss(log_scores_BK1, math.log(2.0), 20, weight_B=weight_B).item()
    assert weighted == pytest.approx(expected, rel=1e-9)
    both = contrast.nce_both_ways(
        (log_scores_BK1, log_scores_BK1), torch.tensor([2.0, 2.0]).double().log(), 20, weight_B=weight_B
    )
    assert both.item() == pytest.approx(2 * expected, rel=1e-9)


def test_only_the_compared_embedding_learns_from_shared_rows() -> None:
    v_BD, positive_BD, rows_KD = (random_unit(n, 4, n).requires_grad_() for n in (3, 3, 6))
    excluded_BK = torch.zeros(3, 6, dtype=torch.bool)
    scores = contrast.shared_log_scores(v_BD, positive_BD, rows_KD, excluded_BK, 0.3)
    contrast.nce_loss(scores, 2.0, 50).backward()
    assert v_BD.grad is not None
    assert v_BD.grad.abs().sum() > 0
    assert positive_BD.grad is None
    assert rows_KD.grad is None


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
        log_z_2 = log_normalizers(*heads, *banks, rows_BK1, 0.07)
        contrast.contrast_loss(*heads, *banks, rows_BK1, log_z_2, 0.07).backward()
    assert seen.elements <= max(batch * images, images * width, batch * (negatives + 1))
    # The counter does see what is to be avoided.
    with LargestTensor() as seen:
        torch.einsum("bkd,bd->bk", banks[0][rows_BK1], heads[0]).sum().backward()
    assert seen.elements >= batch * (negatives + 1) * width


def test_settings_are_checked() -> None:
    bank_ND = torch.eye(3)
    with pytest.raises(ConfigError, match="temperature"):
        contrast.bank_log_scores(bank_ND, bank_ND, torch.zeros(3, 1, dtype=torch.int64), 0.0)
    with pytest.raises(ConfigError, match="temperature"):
        contrast.shared_log_scores(bank_ND, bank_ND, bank_ND, torch.zeros(3, 3, dtype=torch.bool), -1.0)
