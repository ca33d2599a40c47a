"""Confidence intervals of metrics: bootstrap for one model or the difference of two, and McNemar's test.

A resample draws N of the N images with replacement, so that each image counts 0, 1, 2, … times. These counts
are the weights of the resample. A statistic of many resamples is then a matrix product of weights (R×N) and
values (N×S). The weights depend only on the seed and the number of images, so statistics that are
bootstrapped in separate calls with the same seed are paired.

These intervals describe the variation due to the choice of test images. The variation between training runs
is not included; it must be measured by training with several seeds.

Shape letters in addition to those of `richkd.core.types`: R resamples, S statistics.
Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapters 13 and 14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from richkd.core.errors import ConfigError, DataError
from richkd.core.seeds import mix_seed
from richkd.metrics.checks import Figures, check_pair, checked, checked_scores
from richkd.metrics.confidence import ranked

# Seed and number of the resamples of every report, so that separate bootstraps of the same images are paired.
RESAMPLING_SEED, RESAMPLES = 0, 1000
# Number of counts held in memory at a time: three arrays of 8 MB fit in the processor's cache.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Interval(Figures):
    """A metric with its confidence interval; made by the ``bootstrap_…`` functions.

    Attributes:
        estimate: the metric on the given images.
        low: lower end of the interval.
        high: upper end of the interval.
        level: confidence level in (0, 1), such as 0.95.
        resamples: number of bootstrap resamples.
    """

    estimate: float
    low: float
    high: float
    level: float
    resamples: int


@dataclass(frozen=True)
class McNemar(Figures):
    """Result of McNemar's test that two models have the same accuracy; made by `mcnemar_test`.

    Attributes:
        only_a: number of images that only model a classifies correctly.
        only_b: number of images that only model b classifies correctly.
        exact: two-sided exact p-value; its false-positive rate never exceeds the significance level.
        mid_p: two-sided mid-p-value; its false-positive rate is closer to the level and it has more power.
    """

    only_a: int
    only_b: int
    exact: float
    mid_p: float


def resample(
    images: int, statistic: Callable[[Tensor], Tensor], *, seed: int, resamples: int = RESAMPLES
) -> Tensor:
    """Compute a statistic on each bootstrap resample; returns (R,) or (R, S), as ``statistic`` does.

    The resamples depend only on (seed, images). With more ``resamples``, the first ones stay the same.

    Args:
        images: number of images N.
        statistic: a function from weights (r, N) to one result per row. The weights are float64; each row
            holds whole numbers that sum to N. The mean of values_N is ``weights_RN @ values_N / N``. The
            number of rows r can differ between calls.
        seed: seed of the resampling.
        resamples: number of resamples R.

    Raises:
        ConfigError: images or resamples are fewer than one.
        DataError: ``statistic`` does not return one row per resample.

    Example:
        >>> values_N = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> draws_R = resample(2, lambda w_RN: w_RN @ values_N / 2, seed=0, resamples=100)
        >>> draws_R.unique().tolist()  # the possible means of two draws from {0, 1}
        [0.0, 0.5, 1.0]
    """
    for name, number in (("images", images), ("resamples", resamples)):
        if number < 1:
            raise ConfigError(f"Argument '{name}' must be at least 1", got=repr(number), fix="use 1000.")
    generator = np.random.default_rng(mix_seed(seed, "bootstrap"))
    rows_at_once = max(1, CHUNK // images)
    draws = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        # With dtype int64, NumPy draws number by number, so the sequence does not depend on the chunk size.
        index_RN = generator.integers(images, size=(rows, images), dtype=np.int64)
        # One bincount over (resample, image) pairs is many times faster than one bincount per row.
        index_RN += np.arange(0, rows * images, images)[:, None]
        counts_RN = np.bincount(index_RN.ravel(), minlength=rows * images).reshape(rows, images)
        drawn = statistic(torch.from_numpy(counts_RN.astype(np.float64)))
        if drawn.shape[:1] != (rows,):
            raise DataError(
                "Argument 'statistic' must give one row for each resample",
                got=f"shape {tuple(drawn.shape)} for {rows} resamples",
                fix="reduce only over the images, the last dimension of the weights.",
            )
        draws.append(drawn)
    return torch.cat(draws)


def percentile_intervals(estimate_S: Tensor, draws_RS: Tensor, level: float = 0.95) -> tuple[Interval, ...]:
    """Percentile intervals: from the (1 − level)/2 quantile to the (1 + level)/2 quantile of the draws.

    Args:
        estimate_S: the statistics on the original images.
        draws_RS: the statistics on each resample.
        level: confidence level in (0, 1).

    Raises:
        ConfigError: the level is not between 0 and 1.
        DataError: the draws do not have one column per estimate.

    Example:
        >>> draws_RS = torch.arange(101, dtype=torch.float64)[:, None]
        >>> (interval,) = percentile_intervals(torch.tensor([50.0]), draws_RS, level=0.9)
        >>> round(interval.low, 6), round(interval.high, 6)
        (5.0, 95.0)
    """
    if draws_RS.ndim != 2 or draws_RS.shape[1:] != estimate_S.shape:
        raise DataError(
            "Intervals need a column of draws for each estimate",
            got=f"draws of shape {tuple(draws_RS.shape)} for estimates of shape {tuple(estimate_S.shape)}",
            fix="compute the estimates and the draws with the same function.",
        )
    lows, highs = _quantiles(draws_RS, level)
    bounds = zip(estimate_S.tolist(), lows, highs, strict=True)
    return tuple(Interval(value, low, high, level, len(draws_RS)) for value, low, high in bounds)


def bootstrap_means(
    values_NS: Tensor, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[Interval, ...]:
    """Percentile interval of the mean over images, for each column of values.

    Args:
        values_NS: one value per image and statistic, such as correctness (0 or 1) or NLL.
        seed: seed of the resampling.
        resamples: number of resamples.
        level: confidence level in (0, 1).

    Raises:
        RichKDError: the values are not a matrix or not finite, resamples < 1, or the level is not in (0, 1).

    Example:
        >>> correct_N1 = torch.tensor([1.0] * 75 + [0.0] * 25)[:, None]
        >>> (interval,) = bootstrap_means(correct_N1, seed=0)
        >>> interval.low < interval.estimate == 0.75 < interval.high
        True
    """
    values_NS = checked_scores(values_NS, columns="statistics").cpu()
    images = len(values_NS)
    draws_RS = resample(images, lambda w_RN: w_RN @ values_NS / images, seed=seed, resamples=resamples)
    return percentile_intervals(values_NS.mean(0), draws_RS, level)


def paired_bootstrap(
    a_values_NS: Tensor, b_values_NS: Tensor, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[Interval, ...]:
    """Percentile interval of mean b − mean a for each column; both models use the same resampled images.

    Raises:
        RichKDError: as `bootstrap_means`, or the shapes of the two models differ.

    Example:
        >>> a_N1 = torch.zeros(50, 1)
        >>> (interval,) = paired_bootstrap(a_N1, a_N1 + 1, seed=0)
        >>> interval.estimate, interval.low, interval.high  # the difference is the same for each image
        (1.0, 1.0, 1.0)
    """
    check_pair(a_values_NS, b_values_NS)
    a_NS, b_NS = (checked_scores(x, columns="statistics").cpu() for x in (a_values_NS, b_values_NS))
    return bootstrap_means(b_NS - a_NS, seed=seed, resamples=resamples, level=level)


def bootstrap_selective(
    probs_NC: Tensor, labels_N: Tensor, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[Interval, Interval]:
    """Percentile intervals of AURC and AUGRC (`richkd.metrics.confidence`).

    Images of equal confidence, including an image that is drawn twice, are averaged over all their orders.
    A group of m images with e errors that follows n images with E errors contributes to N · AURC

        Σ_{j=1..m} (E + j·e/m) / (n + j) = e + (E − n·e/m)·(H_{n+m} − H_n),   H_k = 1 + 1/2 + … + 1/k.

    Returns:
        The intervals of AURC and of AUGRC.

    Raises:
        RichKDError: as `richkd.metrics.confidence.aurc` and `bootstrap_means`.

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> aurc, augrc = bootstrap_selective(probs_NC, torch.tensor([0, 1]), seed=0)
        >>> aurc.estimate, augrc.estimate, aurc.low, aurc.high
        (0.25, 0.25, 0.0, 1.0)
    """
    ranking = ranked(probs_NC, labels_N)
    images = ranking.n
    order_N = torch.from_numpy(ranking.group_N).argsort(stable=True)
    wrong_N = 1 - ranking.correct_N.double()[order_N]
    last_G = torch.from_numpy(ranking.ends_G1[1:]).long() - 1
    harmonic_N1 = torch.cat([torch.zeros(1), (1 / torch.arange(1, images + 1).double()).cumsum(0)])

    def statistic(weights_RN: Tensor) -> Tensor:
        weights_RN = weights_RN[:, order_N]
        covered_RG = weights_RN.cumsum(1)[:, last_G]
        errors_RG = (weights_RN * wrong_N).cumsum(1)[:, last_G]
        size_RG = covered_RG.diff(dim=1, prepend=covered_RG.new_zeros(len(covered_RG), 1))
        group_errors_RG = errors_RG.diff(dim=1, prepend=errors_RG.new_zeros(len(errors_RG), 1))
        before_RG, earlier_RG = covered_RG - size_RG, errors_RG - group_errors_RG
        share_RG = group_errors_RG / size_RG.clamp(min=1)
        harmonic_RG = harmonic_N1[covered_RG.long()] - harmonic_N1[before_RG.long()]
        risk_R = (group_errors_RG + (earlier_RG - before_RG * share_RG) * harmonic_RG).sum(1)
        generalized_R = (size_RG * earlier_RG + (size_RG + 1) / 2 * group_errors_RG).sum(1) / images
        return torch.stack([risk_R, generalized_R], dim=1) / images

    draws_RS = resample(images, statistic, seed=seed, resamples=resamples)
    estimates = torch.tensor([ranking.aurc(), ranking.augrc()], dtype=torch.float64)
    aurc, augrc = percentile_intervals(estimates, draws_RS, level)
    return aurc, augrc


def discordant_counts(a_scores_NC: Tensor, b_scores_NC: Tensor, labels_N: Tensor) -> tuple[int, int]:
    """Count the images that only model a, and only model b, classifies correctly.

    The scores can be logits or probabilities.

    Raises:
        RichKDError: the scores are not finite, a label is not a valid class, or the shapes do not match.

    Example:
        >>> a_NC = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> discordant_counts(a_NC, a_NC.flip(1), torch.tensor([0, 0, 1]))
        (2, 1)
    """
    check_pair(a_scores_NC, b_scores_NC)
    a_right_N, b_right_N = (
        (scores_NC.argmax(1) == true_N).cpu()
        for scores_NC, true_N in (checked(a_scores_NC, labels_N), checked(b_scores_NC, labels_N))
    )
    return int((a_right_N & ~b_right_N).sum()), int((b_right_N & ~a_right_N).sum())


def mcnemar_test(only_a: int, only_b: int) -> McNemar:
    """McNemar's test of equal accuracy: two-sided exact p-value and mid-p-value from the discordant images.

    If both models are equally accurate, only_a is binomial with n = only_a + only_b and probability 1/2.
    With T = |only_a − only_b| and its observed value t: exact = P(T ≥ t), mid-p = P(T > t) + P(T = t)/2.
    Both are computed with integers up to the last division. Without discordant images both are 1. Source:
    Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data: mid-p and asymptotic
    are better than exact conditional".

    Args:
        only_a: number of images that only model a classifies correctly.
        only_b: number of images that only model b classifies correctly.

    Raises:
        ConfigError: a count is negative.

    Example:
        >>> mcnemar_test(5, 0).exact  # 2 · (1/2)⁵
        0.0625
        >>> mcnemar_test(5, 0).mid_p
        0.03125
    """
    if min(only_a, only_b) < 0:
        raise ConfigError(
            "McNemar's test needs two counts of images, at least 0",
            got=f"{only_a} and {only_b}",
            fix="pass the counts of `discordant_counts`.",
        )
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return McNemar(only_a, only_b, 1.0, 1.0)
    # ways = C(n, i); beyond = Σ_{i < fewer} C(n, i), the number of more extreme outcomes on one side.
    ways, beyond = 1, 0
    for i in range(fewer):
        beyond += ways
        ways = ways * (n - i) // (i + 1)
    equal = ways if only_a == only_b else 2 * ways
    return McNemar(only_a, only_b, (2 * beyond + equal) / 2**n, (4 * beyond + equal) / 2 ** (n + 1))


def _quantiles(draws: Tensor, level: float) -> list[list[float]]:
    """The two quantiles that enclose the central fraction ``level`` of the draws (first dimension)."""
    if not 0 < level < 1:
        raise ConfigError("Argument 'level' must be between 0 and 1", got=repr(level), fix="use 0.95.")
    ends: list[list[float]] = np.quantile(draws.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return ends
