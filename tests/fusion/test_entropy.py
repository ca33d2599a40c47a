"""The entropy of a target and the factor that gives it another one, compared with slow code and scipy."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.fusion.entropy import fit_factor, mean_entropy
from tests.fixtures import refusal


def slow_entropy(rows: list[list[float]], temperature: float, factor: float = 1.0) -> float:
    """Mean entropy with one sum for each image, in Python's floats."""
    total = 0.0
    for row in rows:
        scaled = [factor * z / temperature for z in row]
        exps = [math.exp(z - max(scaled)) for z in scaled]
        probs = [e / sum(exps) for e in exps]
        total -= sum(p * math.log(p) for p in probs if p > 0)
    return total / len(rows)


def random_logits(seed: int, images: int = 30, classes: int = 5, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(images, classes, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_entropy_equals_that_of_sums_over_classes(temperature: float) -> None:
    logits_NC = random_logits(0)
    expected = slow_entropy(logits_NC.tolist(), temperature)
    assert mean_entropy(logits_NC, temperature) == pytest.approx(expected, rel=1e-9)


def test_the_entropy_of_certain_and_of_impossible_classes_is_finite() -> None:
    assert mean_entropy(torch.tensor([[1e4, 0.0, 0.0]])) == 0
    assert mean_entropy(torch.tensor([[0.0, 0.0, -math.inf]])) == pytest.approx(math.log(2))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.floats(1e-3, 30), st.floats(0.5, 8), st.floats(0.01, 0.99))
def test_the_factor_reaches_the_entropy(seed: int, spread: float, temperature: float, share: float) -> None:
    logits_NC = random_logits(seed, spread=spread)
    nats = share * math.log(5)
    factor = fit_factor(logits_NC, temperature, nats)
    assert factor > 0
    assert abs(slow_entropy(logits_NC.tolist(), temperature, factor) - nats) < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6, unique=True))
def test_the_entropy_falls_as_the_factor_grows(seed: int, factors: list[float]) -> None:
    logits_NC = random_logits(seed).double()
    entropies = [mean_entropy(factor * logits_NC) for factor in sorted(factors)]
    assert all(first >= second - 1e-12 for first, second in pairwise(entropies))


def test_the_factor_is_that_of_brents_method() -> None:
    logits_NC = random_logits(3)

    def excess(log_factor: float) -> float:
        return slow_entropy(logits_NC.tolist(), 2.0, math.exp(log_factor)) - 0.7

    expected = math.exp(brentq(excess, -20, 20, xtol=1e-13))
    assert fit_factor(logits_NC, 2.0, 0.7) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("nats", [math.log(4), 1.5, 100.0, 0.0, -1.0, math.nan, math.inf])
def test_an_entropy_that_no_target_has_is_refused(nats: float) -> None:
    error = refusal(fit_factor, random_logits(0, classes=4), 1.0, nats, "fusion.labeled.entropy")
    assert isinstance(error, ConfigError)
    assert "'fusion.labeled.entropy' must be between 0 and ln C nats" in error.rule
    assert "4 classes, where ln C is 1.38629" in str(error.got)


@pytest.mark.parametrize(
    "logits",
    [[[1.0, 1.0, 0.0]] * 2, [[2.0, 2.0, 2.0]]],  # two classes with the largest logit: at least ln 2; constant
)
def test_an_entropy_below_that_of_ties_is_refused(logits: list[list[float]]) -> None:
    error = refusal(fit_factor, torch.tensor(logits), 1.0, 0.5)
    assert isinstance(error, ConfigError)
    assert "an entropy that the fused target has at some factor: between" in error.rule
    assert error.got == "0.5 nats"
