"""Fitted weights: no teacher, corner or simpler way of mixing is better on the images they were fitted on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from richkd.fusion.fit import (
    MAX_MULTIPLIER,
    _derivatives,
    fit_gate,
    fit_inverse_temperature,
    fit_linear_pool,
    fit_log_pool,
    fit_multipliers,
    fit_per_class,
    fit_simplex,
    nll_of,
)
from richkd.fusion.mixing import LogPool, Mixing
from tests.reference import fusion as slow

KINDS = ["skilled", "chance", "constant", "duplicate", "opposite", "perfect", "tiny", "huge"]
ROUNDING = 1e-9


def labeled(images: int, classes: int, seed: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (images,), generator=generator), generator


def teacher(kind: str, labels_N: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Float32 logits of a teacher; "skilled" is right more often than not and never sure."""
    truth_NC = functional.one_hot(labels_N, classes).float()
    noise_NC = torch.randn(len(labels_N), classes, generator=generator)
    constant_N1 = 30 * torch.randn(len(labels_N), 1, generator=generator)
    return {
        "skilled": 3 * (noise_NC + 1.2 * truth_NC),
        "duplicate": 3 * (torch.randn(noise_NC.shape, generator=torch.Generator().manual_seed(0)) + truth_NC),
        "chance": 4 * noise_NC,
        "constant": constant_N1.expand(-1, classes).clone(),
        "opposite": noise_NC - 1.5 * truth_NC,
        "perfect": 20 * truth_NC - 10,
        "tiny": 1e-3 * (noise_NC + truth_NC) + 0.25,
        "huge": 1e4 * (noise_NC + truth_NC),
    }[kind]


def nll(logits: list[Tensor], weights: tuple[float, ...], labels_N: Tensor) -> float:
    return float(nll_of(LogPool(weights), [z_NC.double() for z_NC in logits], labels_N).mean())


def best_single(z_NC: Tensor, labels_N: Tensor) -> float:
    """NLL of one teacher at its best temperature, searched on a grid of 1/T and then by golden section."""

    def at(log_weight: float) -> float:
        return nll([z_NC], (float(np.exp(log_weight)),), labels_N)

    # Steeper than the largest multiplier is no temperature that is fitted.
    spread = (z_NC.double() - z_NC.double().mean(1, keepdim=True)).std().clamp(min=1e-3).item()
    grid = np.linspace(np.log(1e-4 / spread), np.log(MAX_MULTIPLIER / spread), 60)
    values = [at(point) for point in grid]
    i = int(np.argmin(values))
    bounds = (grid[max(i - 1, 0)], grid[min(i + 1, 59)])
    return min(*values, optimize.minimize_scalar(at, bounds=bounds, method="bounded").fun)


# Fitting

problems = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.integers(20, 70),
    st.integers(2, 6),
    st.integers(0, 10_000),
)


@settings(max_examples=80, deadline=None)
@given(problems)
def test_multipliers_beat_every_teacher_and_every_preset(problem: tuple[list[str], int, int, int]) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logits = [teacher(kind, labels_N, classes, generator) for kind in kinds]
    weights = fit_multipliers(logits, labels_N)
    assert all(0 <= weight < float("inf") for weight in weights)
    reached = nll(logits, weights, labels_N)
    # In float32, as in training, the fusion is as good: no multiplier drowns the other teachers.
    in_float32 = float(nll_of(LogPool(weights), logits, labels_N).mean())
    assert in_float32 == pytest.approx(reached, abs=2e-3)
    assert reached <= np.log(classes) + ROUNDING
    for z_NC in logits:
        assert reached <= best_single(z_NC, labels_N) + ROUNDING
    # Presets may pass the largest multiplier that is fitted where a teacher is huge.
    if len(kinds) == 2 and "huge" not in kinds:
        for preset in ((0.7, 30.0), (0.7, 0.3)):
            assert reached <= nll(logits, preset, labels_N) + ROUNDING


def test_constant_teachers_have_no_say() -> None:
    labels_N, generator = labeled(40, 4, 1)
    skilled, constant = (teacher(kind, labels_N, 4, generator) for kind in ("skilled", "constant"))
    both = fit_multipliers([constant, skilled], labels_N)
    assert both[0] == 0
    assert both[1] == pytest.approx(fit_multipliers([skilled], labels_N)[0], rel=1e-9)
    assert fit_multipliers([constant], labels_N) == (0.0,)
    # Nor have those whose logits differ by float32 rounding alone.
    rounded = torch.where(
        torch.rand(40, 4, generator=generator) < 0.5, constant, constant.nextafter(torch.tensor(99.0))
    )
    assert not torch.equal(rounded, constant)
    assert fit_multipliers([rounded, skilled], labels_N) == pytest.approx(both, rel=1e-9)
    assert fit_multipliers([torch.zeros(40, 4)], labels_N) == (0.0,)


def test_opposite_teachers_are_turned_off_not_around() -> None:
    labels_N, generator = labeled(200, 4, 2)
    skilled, opposite = (teacher(kind, labels_N, 4, generator) for kind in ("skilled", "opposite"))
    weights = fit_multipliers([opposite, skilled], labels_N)
    assert weights[0] == 0
    assert weights[1] > 0
    assert fit_multipliers([opposite], labels_N)[0] == pytest.approx(0, abs=1e-8)


def test_duplicates_share_one_multiplier() -> None:
    labels_N, generator = labeled(60, 4, 3)
    z_NC = teacher("skilled", labels_N, 4, generator)
    (single,) = fit_multipliers([z_NC], labels_N)
    assert sum(fit_multipliers([z_NC, z_NC], labels_N)) == pytest.approx(single, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["skilled", "chance", "opposite", "tiny"]), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
def test_fit_equals_a_general_optimizer(kinds: list[str], seed: int) -> None:
    classes = 4
    labels_N, generator = labeled(60, classes, seed)
    logits = [teacher(kind, labels_N, classes, generator) for kind in kinds]
    scales = [float(z_NC.double().std()) for z_NC in logits]

    def objective(scaled: np.ndarray) -> float:
        return nll(logits, tuple(w / s for w, s in zip(scaled, scales, strict=True)), labels_N)

    result = optimize.minimize(
        objective, np.ones(len(kinds)), method="L-BFGS-B", bounds=[(0, None)] * len(kinds), tol=1e-12
    )
    weights = fit_multipliers(logits, labels_N)
    assert nll(logits, weights, labels_N) <= result.fun + ROUNDING
    assert np.allclose(np.multiply(weights, scales), result.x, rtol=0.01, atol=2e-3)


def test_nll_of_the_fit_equals_the_loop() -> None:
    labels_N, generator = labeled(30, 5, 4)
    logits = [teacher(kind, labels_N, 5, generator) for kind in ("skilled", "tiny")]
    weights = fit_multipliers(logits, labels_N)
    reached = slow.nll(logits, weights, labels_N)
    assert reached == pytest.approx(nll(logits, weights, labels_N), rel=1e-9)
    for i, factor in itertools.product(range(2), (0.9, 1.1)):
        moved = [w * factor if m == i else w for m, w in enumerate(weights)]
        assert slow.nll(logits, moved, labels_N) > reached


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 10_000))
def test_names_and_order_of_classes_do_not_matter(order: list[int], seed: int) -> None:
    labels_N, generator = labeled(50, 5, seed)
    logits = [teacher(kind, labels_N, 5, generator) for kind in ("skilled", "tiny")]
    place = torch.tensor(order)
    # Class order[c] becomes class c.
    renamed = fit_multipliers([z_NC[:, place] for z_NC in logits], place.argsort()[labels_N])
    assert renamed == pytest.approx(fit_multipliers(logits, labels_N), rel=1e-5, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-50, 50), st.integers(0, 10_000))
def test_scale_divides_the_multiplier_and_offset_changes_nothing(
    scale: float, offset: float, seed: int
) -> None:
    labels_N, generator = labeled(50, 4, seed)
    first, second = (teacher(kind, labels_N, 4, generator).double() for kind in ("skilled", "skilled"))
    plain = fit_multipliers([first, second], labels_N)
    moved = fit_multipliers([first, scale * second + offset], labels_N)
    assert (moved[0], moved[1] * scale) == pytest.approx(plain, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_derivatives_equal_autograd(num_teachers: int) -> None:
    labels_N, generator = labeled(12, 4, num_teachers)
    stack_MNC = torch.randn(num_teachers, 12, 4, generator=generator, dtype=torch.float64)
    weights_M = torch.rand(num_teachers, generator=generator, dtype=torch.float64)

    def objective(w_M: Tensor) -> Tensor:
        return functional.cross_entropy(torch.einsum("m,mnc->nc", w_M, stack_MNC), labels_N)

    gradient_M, hessian_MM = _derivatives(weights_M, stack_MNC, labels_N)
    assert torch.allclose(gradient_M, torch.autograd.functional.jacobian(objective, weights_M), atol=1e-12)
    assert torch.allclose(hessian_MM, torch.autograd.functional.hessian(objective, weights_M), atol=1e-12)


# Ways of mixing

FITS = [fit_simplex, fit_log_pool, fit_linear_pool, fit_gate, fit_per_class]


def mean_nll(mixing: Mixing, logs: list[Tensor], labels_N: Tensor) -> float:
    return float(nll_of(mixing, [log_NC.double() for log_NC in logs], labels_N).mean())


def log_probs(kinds: list[str], labels_N: Tensor, classes: int, generator: torch.Generator) -> list[Tensor]:
    return [teacher(kind, labels_N, classes, generator).log_softmax(1) for kind in kinds]


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=25, deadline=None)
@given(problems)
def test_no_teacher_is_better_than_the_fit(fit: object, problem: tuple[list[str], int, int, int]) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logs = log_probs(kinds, labels_N, classes, generator)
    reached = mean_nll(fit(logs, labels_N), logs, labels_N)  # type: ignore[operator]
    assert np.isfinite(reached)
    for log_NC in logs:
        assert reached <= float(functional.cross_entropy(log_NC.double(), labels_N)) + ROUNDING


@settings(max_examples=25, deadline=None)
@given(problems)
def test_richer_ways_are_no_worse_than_the_pool_they_contain(
    problem: tuple[list[str], int, int, int],
) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logs = log_probs(kinds, labels_N, classes, generator)
    pool = mean_nll(fit_log_pool(logs, labels_N), logs, labels_N)
    assert pool <= mean_nll(fit_simplex(logs, labels_N), logs, labels_N) + ROUNDING
    for fit in (fit_gate, fit_per_class):
        assert mean_nll(fit(logs, labels_N), logs, labels_N) <= pool + ROUNDING


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["skilled", "chance", "tiny"]), min_size=2, max_size=2), st.integers(0, 9999))
def test_weights_on_the_simplex_equal_a_search(kinds: list[str], seed: int) -> None:
    labels_N, generator = labeled(60, 4, seed)
    logs = log_probs(kinds, labels_N, 4, generator)
    for fit in (fit_simplex, fit_linear_pool):
        mixing = fit(logs, labels_N)
        assert sum(mixing.weights) == pytest.approx(1, abs=1e-9)
        kind = type(mixing)
        grid = [mean_nll(kind((w, 1 - w)), logs, labels_N) for w in np.linspace(0, 1, 51)]
        assert mean_nll(mixing, logs, labels_N) <= min(grid) + 1e-5


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
