"""Fitted mixings: near the unfitted one where images are few, the best where they are many."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor
from torch.nn import functional

from richkd.fusion.fit import (
    fit_gate,
    fit_inverse_temperature,
    fit_linear_pool,
    fit_log_pool,
    fit_per_class,
    fit_simplex,
    nll_of,
)
from richkd.fusion.mixing import LinearPool, LogPool, Mixing
from richkd.fusion.shares import equal_shares
from tests.metrics.test_multipliers import KINDS, labeled, teacher
from tests.reference import fusion as slow

ROUNDING = 1e-9


def nll(logits: list[Tensor], weights: tuple[float, ...], labels_N: Tensor) -> float:
    return float(nll_of(LogPool(weights), [z_NC.double() for z_NC in logits], labels_N).mean())


problems = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.integers(20, 70),
    st.integers(2, 6),
    st.integers(0, 10_000),
)


def test_nll_of_the_fit_equals_the_loop() -> None:
    labels_N, generator = labeled(30, 5, 4)
    logits = [teacher(kind, labels_N, 5, generator) for kind in ("skilled", "tiny")]
    weights = fit_log_pool(logits, labels_N).weights
    assert slow.nll(logits, weights, labels_N) == pytest.approx(nll(logits, weights, labels_N), rel=1e-9)


# Ways of mixing

FITS = [fit_simplex, fit_log_pool, fit_linear_pool, fit_gate, fit_per_class]


def mean_nll(mixing: Mixing, logs: list[Tensor], labels_N: Tensor) -> float:
    return float(nll_of(mixing, [log_NC.double() for log_NC in logs], labels_N).mean())


def log_probs(kinds: list[str], labels_N: Tensor, classes: int, generator: torch.Generator) -> list[Tensor]:
    return [teacher(kind, labels_N, classes, generator).log_softmax(1) for kind in kinds]


def unfitted(fit: object, teachers: int) -> Mixing:
    """What a fit returns without evidence: shares for pools, and no slopes and classes."""
    shares = equal_shares(teachers)
    return LinearPool(shares) if fit is fit_linear_pool else LogPool(shares)


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=25, deadline=None)
@given(problems)
def test_the_unfitted_mixing_is_no_better_than_the_fit(
    fit: object, problem: tuple[list[str], int, int, int]
) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logs = log_probs(kinds, labels_N, classes, generator)
    reached = mean_nll(fit(logs, labels_N), logs, labels_N)  # type: ignore[operator]
    assert np.isfinite(reached)
    assert reached <= mean_nll(unfitted(fit, len(kinds)), logs, labels_N) + ROUNDING


@pytest.mark.parametrize("fit", FITS)
def test_with_many_images_no_teacher_is_better_than_the_fit(fit: object) -> None:
    labels_N, generator = labeled(20_000, 4, 0)
    for kinds in (["skilled", "chance"], ["opposite", "skilled"], ["skilled", "skilled", "tiny"]):
        logs = log_probs(kinds, labels_N, 4, generator)
        reached = mean_nll(fit(logs, labels_N), logs, labels_N)  # type: ignore[operator]
        best = min(float(functional.cross_entropy(log_NC.double(), labels_N)) for log_NC in logs)
        # A prior of 16 images among 20,000, and factors that it changes by a factor of up to 1,000.
        assert reached <= best + 16 / 20_000 * 7


@pytest.mark.parametrize("fit", FITS)
def test_one_image_changes_hardly_anything(fit: object) -> None:
    labels_N, generator = labeled(1, 4, 0)
    logs = log_probs(["skilled", "skilled"], labels_N, 4, generator)
    others_N, generator = labeled(50, 4, 1)
    others = log_probs(["skilled", "skilled"], others_N, 4, generator)
    mixed = fit(logs, labels_N)(others).softmax(1)  # type: ignore[operator]
    assert (mixed - unfitted(fit, 2)(others).softmax(1)).abs().max() < 0.1


def test_shares_are_the_centers() -> None:
    labels_N, generator = labeled(2, 4, 0)
    logs = log_probs(["skilled", "skilled"], labels_N, 4, generator)
    for fit in FITS:
        first, second = fit(logs, labels_N, (0.9, 0.1)), fit(logs, labels_N, (0.1, 0.9))
        probs = [mixing([logs[0], logs[0].flip(1)]).softmax(1)[0] for mixing in (first, second)]
        assert not torch.allclose(*probs, atol=0.05)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["skilled", "chance", "tiny"]), min_size=2, max_size=2), st.integers(0, 9999))
def test_weights_on_the_simplex_equal_a_search(kinds: list[str], seed: int) -> None:
    labels_N, generator = labeled(60, 4, seed)
    logs = log_probs(kinds, labels_N, 4, generator)
    shares = (0.7, 0.3)

    def objective(kind: type[LogPool] | type[LinearPool], w: float) -> float:
        prior = 16 / 60 * (shares[0] * np.log(w) + shares[1] * np.log(1 - w))
        return mean_nll(kind((w, 1 - w)), logs, labels_N) - prior

    for fit in (fit_simplex, fit_linear_pool):
        mixing = fit(logs, labels_N, shares)
        assert sum(mixing.weights) == pytest.approx(1, abs=1e-9)

        grid = [objective(type(mixing), w) for w in np.linspace(0.01, 0.99, 99)]
        assert objective(type(mixing), mixing.weights[0]) <= min(grid) + 1e-5


def slow_nll(weights_MNC: np.ndarray, logs: list[np.ndarray], labels: np.ndarray) -> float:
    fused = sum(w * log for w, log in zip(weights_MNC, logs, strict=True))
    fused = fused - logsumexp(fused, axis=1, keepdims=True)
    return float(-fused[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("kinds", [["skilled", "chance"], ["skilled", "skilled"]])
def test_gates_and_weights_per_class_minimize_what_they_say(kinds: list[str]) -> None:
    """The objectives with their priors, written in NumPy and minimized by SciPy."""
    shares, images, classes = (0.8, 0.2), 40, 3
    labels_N, generator = labeled(images, classes, 6)
    logs = log_probs(kinds, labels_N, classes, generator)
    arrays, labels = [log_NC.double().numpy() for log_NC in logs], labels_N.numpy()
    sure = [1 + (np.exp(log) * log).sum(axis=1) / math.log(classes) - 0.5 for log in arrays]

    def of_gate(theta: np.ndarray) -> float:
        log_w, slopes = theta[:2], theta[2:]
        weights = [np.exp(a + b * h)[:, None] for a, b, h in zip(log_w, slopes, sure, strict=True)]
        ratio = log_w - np.log(shares)
        prior = 16 * (np.sqrt(1 + ratio**2) - 1).sum() + (slopes**2).sum() / (2 * 4.0)
        return slow_nll(np.array(weights), arrays, labels) + prior / images

    gate = fit_gate(logs, labels_N, shares)
    optimum = minimize(of_gate, np.zeros(4), tol=1e-10)
    assert of_gate(np.array([*np.log(gate.weights), *gate.slopes])) <= optimum.fun + 1e-6
    assert [*np.log(gate.weights), *gate.slopes] == pytest.approx(optimum.x.tolist(), abs=0.01)

    shared = np.array(fit_log_pool(logs, labels_N, shares).weights)

    def of_classes(d: np.ndarray) -> float:
        weights = shared[:, None, None] * np.exp(d.reshape(2, 1, classes))
        return slow_nll(weights, arrays, labels) + (d**2).sum() / (2 * 0.25 * images)

    per_class = np.array(fit_per_class(logs, labels_N, shares).weights)
    optimum = minimize(of_classes, np.zeros(2 * classes), tol=1e-10)
    assert np.log(per_class / shared[:, None]).ravel().tolist() == pytest.approx(optimum.x.tolist(), abs=0.01)


def test_classes_of_which_a_teacher_knows_nothing_are_left_to_the_other() -> None:
    labels_N, generator = labeled(600, 4, 0)
    skilled, other = log_probs(["skilled", "skilled"], labels_N, 4, generator)
    blind = skilled.clone()
    blind[:, 2] = blind[torch.randperm(600, generator=generator), 2]
    weights = fit_per_class([blind, other], labels_N).weights
    assert weights[0][2] < 0.7 * min(weights[0][c] for c in (0, 1, 3))


def test_a_gate_listens_to_whoever_is_sure_with_reason() -> None:
    # Each teacher knows half of the images and answers the others at random, without being sure.
    labels_N, generator = labeled(800, 5, 1)
    truth_NC = functional.one_hot(labels_N, 5).float()
    logs = []
    for half in (0, 1):
        knows_N1 = (torch.arange(800) % 2 == half)[:, None]
        guess_NC = torch.randn(800, 5, generator=generator)
        logs.append(torch.where(knows_N1, 6 * truth_NC + guess_NC, 1.5 * guess_NC).log_softmax(1))
    gate = fit_gate(logs, labels_N)
    assert min(gate.slopes) > 0.2
    assert mean_nll(gate, logs, labels_N) < mean_nll(fit_log_pool(logs, labels_N), logs, labels_N) - 0.01


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 999))
def test_permuting_classes_permutes_the_result(order: list[int], seed: int) -> None:
    labels_N, generator = labeled(60, 4, seed)
    logs = log_probs(["skilled", "tiny"], labels_N, 4, generator)
    place = torch.tensor(order)
    renamed_logs, renamed_N = [log_NC[:, place] for log_NC in logs], place.argsort()[labels_N]
    for fit in FITS:
        plain, renamed = fit(logs, labels_N), fit(renamed_logs, renamed_N)
        assert torch.allclose(plain(logs)[:, place].softmax(1), renamed(renamed_logs).softmax(1), atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 999))
def test_the_nearest_temperature_is_found(beta: float, seed: int) -> None:
    z_NC = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert fit_inverse_temperature(z_NC, (beta * z_NC).softmax(1)) == pytest.approx(beta, rel=1e-3)
    assert fit_inverse_temperature(torch.ones_like(z_NC), z_NC.softmax(1)) == 0.0
