"""Figures over seeds against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from richkd.core.errors import ConfigError, DataError
from richkd.metrics.seeds import DIFFERENCE, FRACTION, NLL, Range, summarize_seeds, t_quantile
from tests.fixtures import refusal


@given(
    share=st.floats(0.001, 0.999),
    degrees=st.integers(1, 1000),
)
def test_quantiles_equal_those_of_scipy(share: float, degrees: int) -> None:
    assert t_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-9, abs=1e-9)


@given(values=st.lists(st.floats(-10, 10), min_size=2, max_size=20), level=st.floats(0.5, 0.99))
def test_intervals_equal_those_of_scipy(values: list[float], level: float) -> None:
    figures = summarize_seeds(values, level)
    assert figures.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert figures.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if figures.sd:
        low, high = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
        assert (figures.low, figures.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    else:
        assert figures.low == figures.high == figures.mean


@pytest.mark.parametrize(
    ("values", "possible", "ends"),
    [
        ([0.02, 0.03], FRACTION, (0.0, None)),
        ([0.98, 0.9], FRACTION, (None, 1.0)),
        ([0.1, 0.5], DIFFERENCE, (-1.0, 1.0)),
        ([0.1, 0.5], NLL, (0.0, None)),
    ],
)
def test_an_interval_has_possible_values_only(
    values: list[float], possible: Range, ends: tuple[float | None, float | None]
) -> None:
    cut, whole = summarize_seeds(values, possible=possible), summarize_seeds(values)
    assert (cut.mean, cut.sd) == (whole.mean, whole.sd)
    assert cut.low == (whole.low if ends[0] is None else ends[0])
    assert cut.high == (whole.high if ends[1] is None else ends[1])


def test_wrong_arguments_are_refused() -> None:
    for values in ([], [math.nan], [0.5, math.inf]):
        assert isinstance(refusal(summarize_seeds, values), DataError)
    for level in (0, 1, -1, math.nan):
        assert isinstance(refusal(summarize_seeds, [0.1, 0.2], level), ConfigError)
    assert isinstance(refusal(t_quantile, 0.9, 0), ConfigError)
