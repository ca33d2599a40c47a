"""Figures over seeds of training: mean, standard deviation, and the t-interval of the mean.

The intervals describe the variation between training runs. Those of `richkd.metrics.intervals` describe the
variation due to the choice of test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from richkd.core.errors import ConfigError, DataError
from richkd.metrics.checks import Figures

# Bisection halves the error of a quantile this many times, and this many terms of the continued fraction are
# added at most.
HALVINGS, TERMS, TINY = 200, 10_000, 1e-300
# The values that a metric can have.
Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
FRACTION: Range = (0.0, 1.0)
DIFFERENCE: Range = (-1.0, 1.0)
NLL: Range = (0.0, math.inf)


@dataclass(frozen=True)
class OverSeeds(Figures):
    """A metric over seeds; made by `summarize_seeds`.

    Attributes:
        n: number of seeds.
        mean: mean over the seeds.
        sd: standard deviation with n − 1 in the denominator; None for a single seed.
        low: lower end of the t-interval of the mean; None for a single seed.
        high: upper end.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summarize_seeds(values: Sequence[float], level: float = 0.95, possible: Range = ANY) -> OverSeeds:
    """Mean, standard deviation and t-interval of one value for each seed.

    The interval is mean ± t · sd / √n, where t is the (1 + level)/2 quantile of Student's t-distribution with
    n − 1 degrees of freedom. It covers the mean over all seeds if the values are normally distributed. It is
    cut at the possible values, beyond which the mean cannot be.

    Args:
        values: one value for each seed; for a paired difference, the differences.
        level: confidence level in (0, 1).
        possible: the least and the greatest value that the metric can have, such as `FRACTION`.

    Raises:
        DataError: there is no value, or one is not finite.
        ConfigError: the level is not between 0 and 1.

    Example:
        >>> figures = summarize_seeds([0.5, 0.7])
        >>> round(figures.mean, 3), round(figures.sd, 4), round(figures.low, 2), round(figures.high, 2)
        (0.6, 0.1414, -0.67, 1.87)
        >>> summarize_seeds([0.5, 0.7], possible=FRACTION).low
        0.0
        >>> summarize_seeds([0.5]).sd is None
        True
    """
    if not values or not all(map(math.isfinite, values)):
        raise DataError(
            "Figures over seeds need one finite value for each seed",
            got=repr(list(values)),
            fix="remove the runs that have no value.",
        )
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return OverSeeds(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile((1 + _checked(level)) / 2, n - 1) * sd / math.sqrt(n)
    return OverSeeds(n, mean, sd, max(mean - half, possible[0]), min(mean + half, possible[1]))


def t_quantile(share: float, degrees: int) -> float:
    """The quantile of Student's t-distribution, to about 12 digits.

    Args:
        share: the share of the distribution below the quantile, in (0, 1).
        degrees: degrees of freedom, at least 1.

    Raises:
        ConfigError: a share or a number of degrees out of its range.

    Example:
        >>> round(t_quantile(0.975, 1), 4), round(t_quantile(0.975, 4), 4), t_quantile(0.5, 3)
        (12.7062, 2.7764, 0.0)
    """
    _checked(share)
    if degrees < 1:
        raise ConfigError("Argument 'degrees' must be at least 1", got=repr(degrees), fix="use n - 1.")
    if share == 0.5:
        return 0.0
    if share < 0.5:
        return -t_quantile(1 - share, degrees)
    # Below x = ν / (ν + t²) lies the share of both tails, I_x(ν/2, 1/2).
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        x = (low + high) / 2
        low, high = (x, high) if _beta(x, degrees / 2, 0.5) < 2 * (1 - share) else (low, x)
    x = (low + high) / 2
    return math.sqrt(degrees * (1 - x) / x)


def _beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Lentz's method.
    result, c, d = TINY, TINY, 0.0
    for term in range(TERMS):
        m = term // 2
        if term == 0:
            numerator = 1.0
        elif term % 2:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + numerator * d or TINY)
        c = 1 + numerator / c or TINY
        result *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return math.exp(logs) / a * result


def _checked(share: float) -> float:
    if not 0 < share < 1:
        raise ConfigError("Argument 'level' must be between 0 and 1", got=repr(share), fix="use 0.95.")
    return share
