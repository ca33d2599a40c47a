"""Bootstrap and McNemar against loops over resamples and coins, scipy, and what intervals promise."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from scipy import stats

from richkd.core.errors import ConfigError, DataError, NonFiniteError
from richkd.core.seeds import mix_seed
from richkd.metrics import intervals
from richkd.metrics.confidence import augrc, aurc
from richkd.metrics.ece_intervals import bootstrap_ece, paired_bootstrap_ece
from richkd.metrics.intervals import (
    bootstrap_means,
    bootstrap_selective,
    discordant_counts,
    mcnemar_test,
    paired_bootstrap,
    percentile_intervals,
    resample,
)
from tests.reference import evaluation as reference

KEY = mix_seed(5, "bootstrap")


def calibrated(images: int, seed: int, excess: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidence in [0.1 + excess, 1] that overstates accuracy by ``excess``, which is the true ECE."""
    generator = torch.Generator().manual_seed(seed)
    c_N = 0.1 + excess + (0.9 - excess) * torch.rand(images, generator=generator, dtype=torch.float64)
    right_N = torch.rand(images, generator=generator, dtype=torch.float64) < c_N - excess
    probs_NC = ((1 - c_N[:, None]) / 19).repeat(1, 20)
    probs_NC[:, 0] = c_N
    # A confidence near 0.1 must still be the highest of its row.
    assert bool((c_N > (1 - c_N) / 19).all())
    return probs_NC, torch.where(right_N, 0, 1)


def test_weights_are_counts_of_images() -> None:
    weights_RN = resample(37, lambda w_RN: w_RN, seed=5, resamples=4000)
    assert weights_RN.dtype == torch.float64
    assert bool((weights_RN.sum(1) == 37).all())
    assert bool((weights_RN == weights_RN.round()).all())
    # Each count is binomial(37, 1/37), and any two of a row covary by −1/37.
    assert float(weights_RN.var()) == pytest.approx(36 / 37, rel=0.02)
    covariance = np.cov(weights_RN.numpy().T)
    assert covariance[~np.eye(37, dtype=bool)].mean() == pytest.approx(-1 / 37, rel=0.05)


def test_the_resamples_are_those_of_a_loop_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values_NS = torch.randn(53, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = reference.resampled_means(values_NS.numpy(), 70, KEY)
    for chunk in (1, 53 * 7 + 5, 1 << 20):
        monkeypatch.setattr(intervals, "CHUNK", chunk)
        draws_RS = resample(53, lambda w_RN: w_RN @ values_NS / 53, seed=5, resamples=70)
        np.testing.assert_allclose(draws_RS.numpy(), expected, atol=1e-12)
        result = bootstrap_means(values_NS, seed=5, resamples=70, level=0.9)
        ends = np.quantile(expected, [0.05, 0.95], axis=0)
        np.testing.assert_allclose([[i.low for i in result], [i.high for i in result]], ends, atol=1e-12)
        np.testing.assert_allclose([i.estimate for i in result], values_NS.mean(0), atol=1e-12)


def test_randomness_is_a_function_of_the_seed() -> None:
    values_NS = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    assert bootstrap_means(values_NS, seed=1) == bootstrap_means(values_NS, seed=1)
    assert bootstrap_means(values_NS, seed=1) != bootstrap_means(values_NS, seed=2)
    fewer, more = (resample(100, lambda w_RN: w_RN, seed=1, resamples=r) for r in (10, 30))
    assert torch.equal(fewer, more[:10])


def test_means_agree_with_scipy() -> None:
    values_N = np.random.default_rng(0).exponential(size=400)
    (result,) = bootstrap_means(torch.from_numpy(values_N)[:, None], seed=0, resamples=20_000)
    theirs = stats.bootstrap(
        (values_N,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Twenty thousand resamples know each end to about a fiftieth of the standard error.
    error = values_N.std() / 20
    assert (result.low, result.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * error)


def test_an_interval_holds_the_true_mean_19_times_in_20() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for trial in range(600):
        right_NS = (torch.rand(200, 1, generator=generator) < 0.75).double()
        (interval,) = bootstrap_means(right_NS, seed=trial, resamples=400)
        held += interval.low <= 0.75 <= interval.high
    # Binomial standard error 0.9 %; the seeds are fixed, so this holds always or never.
    assert 0.925 <= held / 600 <= 0.975


def test_pairs_are_resampled_together() -> None:
    generator = torch.Generator().manual_seed(0)
    a_NS = torch.rand(500, 2, generator=generator, dtype=torch.float64)
    b_NS = a_NS + 0.01 * torch.rand(500, 2, generator=generator, dtype=torch.float64)
    for interval in paired_bootstrap(a_NS, b_NS, seed=3):
        assert 0.004 < interval.low < interval.estimate < interval.high < 0.006
    draws = [resample(500, lambda w_RN, x=x: w_RN @ x / 500, seed=3) for x in (a_NS, b_NS)]  # type: ignore[misc]
    expected = percentile_intervals((b_NS - a_NS).mean(0), draws[1] - draws[0])
    for result, known in zip(paired_bootstrap(a_NS, b_NS, seed=3), expected, strict=True):
        assert (result.low, result.high) == pytest.approx((known.low, known.high), abs=1e-12)
    (same,) = paired_bootstrap(a_NS[:, :1], a_NS[:, :1], seed=3)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (1, 1), (0, 6), (2, 3), (4, 4), (1, 7), (9, 3)])
def test_mcnemar_counts_coins(only_a: int, only_b: int) -> None:
    test = mcnemar_test(only_a, only_b)
    assert (test.exact, test.mid_p) == pytest.approx(reference.mcnemar(only_a, only_b), rel=1e-14)
    assert test.exact == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-12)
    swapped = mcnemar_test(only_b, only_a)
    assert (swapped.exact, swapped.mid_p) == (test.exact, test.mid_p)


def test_mcnemar_of_published_and_large_counts() -> None:
    # Bentur et al. 2009, the first example of Fagerland et al. 2013.
    published = mcnemar_test(1, 7)
    assert (published.exact, published.mid_p) == pytest.approx((0.0703, 0.0391), abs=5e-5)
    large = mcnemar_test(2400, 2600)
    assert large.exact == pytest.approx(stats.binomtest(2400, 5000).pvalue, rel=1e-9)
    assert large.mid_p == pytest.approx(large.exact - stats.binom.pmf(2400, 5000, 0.5), rel=1e-9)
    assert mcnemar_test(0, 5000).exact == 0.0
    assert (mcnemar_test(0, 0).exact, mcnemar_test(0, 0).mid_p) == (1.0, 1.0)


def test_mid_p_rejects_equal_models_about_as_often_as_it_says() -> None:
    sizes = []
    for n in range(20, 120):
        chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
        tests = [mcnemar_test(k, n - k) for k in range(n + 1)]
        assert sum(chances[k] for k, test in enumerate(tests) if test.exact <= 0.05) <= 0.05
        sizes.append(sum(chances[k] for k, test in enumerate(tests) if test.mid_p <= 0.05))
    # How many images are discordant is chance as well, so what counts is the mean.
    assert np.mean(sizes) == pytest.approx(0.05, abs=0.005)


def test_discordant_counts() -> None:
    labels_N = torch.tensor([0, 1, 2, 0, 1])
    a_NC, b_NC = torch.eye(3)[[0, 1, 2, 1, 0]], torch.eye(3)[[0, 2, 0, 0, 0]]
    assert discordant_counts(a_NC, 9 * b_NC, labels_N) == (2, 1)


def test_results_are_ready_for_json() -> None:
    (interval,) = bootstrap_means(torch.eye(4)[:, :1], seed=0)
    for result in (interval, mcnemar_test(3, 4)):
        assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


# Slow for what it needs, which is a processor that is not busy with other tests.
@pytest.mark.slow
def test_a_thousand_resamples_take_under_half_a_second() -> None:
    values_NS = torch.rand(10_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        bootstrap_means(values_NS, seed=0)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


@pytest.mark.parametrize("ties", [False, True])
def test_selective_intervals_are_those_of_images_drawn_again(ties: bool) -> None:
    probs_NC, labels_N = calibrated(300, seed=3)
    if ties:
        probs_NC = (probs_NC * 8).round() / 8
        probs_NC[:, 1] += 1 - probs_NC.sum(1)
    result = bootstrap_selective(probs_NC, labels_N, seed=5, resamples=200)

    def again(weights_RN: torch.Tensor) -> torch.Tensor:
        rows = []
        for weights_N in weights_RN:
            drawn = torch.repeat_interleave(torch.arange(len(weights_N)), weights_N.long())
            rows.append([aurc(probs_NC[drawn], labels_N[drawn]), augrc(probs_NC[drawn], labels_N[drawn])])
        return torch.tensor(rows, dtype=torch.float64)

    draws_RS = resample(len(labels_N), again, seed=5, resamples=200)
    estimates = torch.tensor([aurc(probs_NC, labels_N), augrc(probs_NC, labels_N)], dtype=torch.float64)
    expected = percentile_intervals(estimates, draws_RS)
    for ours, theirs in zip(result, expected, strict=True):
        assert ours.estimate == pytest.approx(theirs.estimate)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_bad_inputs_are_refused() -> None:
    values_NS, probs_NC = torch.rand(3, 2), torch.full((3, 2), 0.5)
    labels_N = torch.tensor([0, 1, 0])
    with pytest.raises(DataError, match="matrix of images × statistics"):
        bootstrap_means(values_NS[:, 0], seed=0)
    with pytest.raises(NonFiniteError, match="2 of 3 images"):
        paired_bootstrap(values_NS, torch.tensor([[1.0, 1], [math.nan, 0], [0, math.inf]]), seed=0)
    with pytest.raises(DataError, match=r"\(3, 2\) and \(2, 2\)"):
        paired_bootstrap(values_NS, values_NS[:2], seed=0)
    with pytest.raises(DataError, match=r"\(3, 2\) and \(2, 2\)"):
        paired_bootstrap_ece(probs_NC, probs_NC[:2], labels_N, seed=0)
    with pytest.raises(DataError, match=r"\(3, 2\) and \(3, 1\)"):
        discordant_counts(probs_NC, probs_NC[:, :1], labels_N)
    with pytest.raises(DataError, match="one row for each resample"):
        resample(3, lambda w_RN: w_RN.T, seed=0)
    with pytest.raises(DataError, match="a column of draws for each estimate"):
        percentile_intervals(values_NS[0], values_NS[:, :1])
    with pytest.raises(ConfigError, match="'resamples'"):
        bootstrap_means(values_NS, seed=0, resamples=0)
    with pytest.raises(ConfigError, match="'images'"):
        resample(0, lambda w_RN: w_RN, seed=0)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="'level'"):
            bootstrap_means(values_NS, seed=0, level=level)
    with pytest.raises(ConfigError, match="'bins'"):
        bootstrap_ece(probs_NC, labels_N, seed=0, bins=0)
    with pytest.raises(ConfigError, match="-1 and 4"):
        mcnemar_test(-1, 4)
