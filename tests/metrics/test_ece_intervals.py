"""Intervals of ECE: the coverage that they claim, and the draws of a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from richkd.core.seeds import mix_seed
from richkd.metrics.calibration import ece
from richkd.metrics.ece_intervals import _patterns, bootstrap_ece, paired_bootstrap_ece
from tests.metrics.test_intervals import calibrated
from tests.reference import evaluation as reference


def test_a_value_is_in_the_interval_if_the_estimate_is_usual_for_it() -> None:
    """The ends, recomputed from resamples that are drawn in a loop: one pattern, since all gaps are clear."""
    probs_NC, labels_N = calibrated(300, 0, excess=0.4)
    interval = bootstrap_ece(probs_NC, labels_N, seed=5, bins=2, resamples=80)
    images = reference.outcomes(probs_NC, labels_N)
    gaps = np.array([gaps_of(images)])
    generator = np.random.default_rng(mix_seed(5, "bootstrap"))
    draws = np.array([gaps_of([images[i] for i in generator.integers(300, size=300)]) for _ in range(80)])
    pattern, errors = gaps / np.abs(gaps).sum(), draws - gaps
    assert interval.estimate == pytest.approx(ece(probs_NC, labels_N, bins=2), abs=1e-12)
    for end, quantile in ((interval.low, 0.975), (interval.high, 0.025)):
        at_end = np.quantile(np.abs(end * pattern + errors).sum(axis=1), quantile)
        assert at_end == pytest.approx(interval.estimate, abs=1e-5)


def gaps_of(images: list[reference.Outcome]) -> list[float]:
    return [sum(right - c for c, right in members) / len(images) for members in reference.bins_of(images, 2)]


def test_noise_and_gaps_are_told_apart() -> None:
    gap_S = torch.tensor([0.1, 0.001, -0.002], dtype=torch.float64)
    errors_RS = 0.005 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole_S, clear_S = _patterns(gap_S, errors_RS)
    assert whole_S.abs().sum() == pytest.approx(1)
    assert clear_S.tolist() == [1.0, 0.0, 0.0]
    # If no gap is clear, the clearest one is tried.
    _, clearest_S = _patterns(gap_S / 50, errors_RS)
    assert clearest_S.tolist() == [1.0, 0.0, 0.0]
    (even_S,) = _patterns(torch.zeros(3, dtype=torch.float64), errors_RS)
    assert even_S.tolist() == pytest.approx([1 / 3] * 3)


def one_bin(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Calibrated, except for the confidences of one bin of 15, where accuracy is 0.2 lower: ECE 0.0134."""
    probs_NC, labels_N = calibrated(images, seed)
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    inside_N = (probs_NC[:, 0] >= 12 / 15) & (probs_NC[:, 0] < 13 / 15)
    unlucky_N = torch.rand(images, generator=generator, dtype=torch.float64) < 0.2 / probs_NC[:, 0]
    return probs_NC, torch.where(inside_N & unlucky_N, 1, labels_N)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "true", "least"),
    [(300, 0.0, 0.92), (1000, 0.0, 0.92), (1000, 0.01, 0.88), (1000, 0.05, 0.9), (1000, None, 0.9)],
)
def test_intervals_hold_the_true_value(images: int, true: float | None, least: float) -> None:
    """Percentile intervals never hold zero, basic bootstrap intervals in less than half of the cases."""
    held, trials = 0, 200
    for trial in range(trials):
        if true is None:
            probs_NC, labels_N = one_bin(images, trial)
        else:
            probs_NC, labels_N = calibrated(images, trial, excess=true)
        interval = bootstrap_ece(probs_NC, labels_N, seed=trial, resamples=200)
        held += interval.low <= (0.2 / 15 / 0.9 if true is None else true) <= interval.high
    # The standard error of a coverage of 95 % is 1.5 points; the seeds are fixed.
    assert held / trials >= least


@pytest.mark.slow
def test_intervals_of_differences_hold_the_true_value() -> None:
    """Basic bootstrap intervals of the difference hold 0.05 in two of three cases."""
    held, trials = 0, 100
    for trial in range(trials):
        a_NC, labels_N = calibrated(1000, trial)
        over_NC = torch.full_like(a_NC, 0.0)
        over_NC[:, 0] = (a_NC[:, 0] + 0.05).clamp(max=1.0)
        over_NC[:, 1:] = ((1 - over_NC[:, :1]) / 19).expand(-1, 19)
        true = float((over_NC[:, 0] - a_NC[:, 0]).mean())
        interval = paired_bootstrap_ece(a_NC, over_NC, labels_N, seed=trial, resamples=200)
        held += interval.low <= true <= interval.high
    assert held / trials >= 0.85, held


def test_a_calibrated_model_has_an_interval_from_zero() -> None:
    interval = bootstrap_ece(*calibrated(10_000, 0), seed=0)
    assert 0.005 < interval.estimate < 0.02
    assert interval.low == 0
    assert interval.high < 0.015


def test_a_clear_difference_excludes_zero() -> None:
    a_NC, labels_N = calibrated(3000, 0)
    b_NC, _ = calibrated(3000, 1, excess=0.3)
    interval = paired_bootstrap_ece(a_NC, b_NC, labels_N, seed=0, resamples=200)
    assert 0 < interval.low < interval.estimate < interval.high


def test_the_interval_of_a_difference_has_the_published_ends() -> None:
    a_NC, labels_N = calibrated(400, 0, excess=0.1)
    b_NC, _ = calibrated(400, 1, excess=0.4)
    interval = paired_bootstrap_ece(a_NC, b_NC, labels_N, seed=3, resamples=100, level=0.9)
    a, b = (bootstrap_ece(x_NC, labels_N, seed=3, resamples=100, level=0.9) for x_NC in (a_NC, b_NC))
    middles = []
    for x_NC in (a_NC, b_NC):
        # The true value for which the estimate is the median.
        narrow = bootstrap_ece(x_NC, labels_N, seed=3, resamples=100, level=1e-6)
        assert narrow.high - narrow.low < 0.05
        middles.append((narrow.low + narrow.high) / 2)
    shift = middles[1] - middles[0]
    low = shift - ((middles[1] - b.low) ** 2 + (a.high - middles[0]) ** 2) ** 0.5
    high = shift + ((b.high - middles[1]) ** 2 + (middles[0] - a.low) ** 2) ** 0.5
    assert interval.estimate == pytest.approx(b.estimate - a.estimate, rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    # The two sides of an interval differ, so none can stand for the other.
    assert a.high - middles[0] != pytest.approx(middles[0] - a.low, rel=0.02)


def test_the_order_of_images_changes_no_estimate() -> None:
    probs_NC, labels_N = calibrated(500, 2)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    before = bootstrap_ece(probs_NC, labels_N, seed=0)
    after = bootstrap_ece(probs_NC[order], labels_N[order], seed=0)
    assert before.estimate == pytest.approx(after.estimate, rel=1e-12)
    # The images that a resample draws are others, so the ends move by the noise of 1,000 resamples.
    assert (before.low, before.high) == pytest.approx((after.low, after.high), abs=0.01)
