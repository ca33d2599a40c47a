"""Multipliers with a prior: the minimum that a general optimizer finds, and what the prior is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from torch import Tensor
from torch.nn import functional

from richkd.metrics.multipliers import PRIOR_IMAGES, derivatives, fit_multipliers, log_prior

KINDS = ["skilled", "chance", "constant", "duplicate", "opposite", "perfect", "tiny", "huge"]


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


def slow_objective(
    logs: np.ndarray, logits: list[Tensor], labels_N: Tensor, centers: tuple[float, ...]
) -> float:
    """NLL + (16/N) Σ (√(1 + u²) − 1), image by image, with weights c·exp(u)."""
    total = 0.0
    for i, label in enumerate(labels_N.tolist()):
        fused = sum(
            c * np.exp(u) * z_NC[i].double().numpy() for c, u, z_NC in zip(centers, logs, logits, strict=True)
        )
        total -= special.log_softmax(fused)[label]
    return total / len(labels_N) + 16 / len(labels_N) * float((np.sqrt(1 + logs**2) - 1).sum())


problems = st.tuples(
    st.lists(st.sampled_from([k for k in KINDS if k != "constant"]), min_size=1, max_size=3),
    st.integers(8, 40),
    st.integers(2, 5),
    st.integers(0, 10_000),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(problems)
# The best start of the grid is above a higher minimum.
@example((["huge", "duplicate", "skilled"], 13, 2, 119))
def test_no_general_optimizer_finds_a_lower_minimum(problem: tuple[list[str], int, int, int]) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logits = [teacher(kind, labels_N, classes, generator) for kind in kinds]
    centers = tuple(0.5 + 0.5 * m for m in range(len(kinds)))
    fitted = np.log(np.array(fit_multipliers(logits, labels_N, centers)) / np.array(centers))
    reached = slow_objective(fitted, logits, labels_N, centers)
    search = optimize.minimize(
        slow_objective, np.zeros(len(kinds)), (logits, labels_N, centers), method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000},
    )  # fmt: skip
    # The objective is not convex in log w: two searches can end in different minima.
    assert (
        reached <= search.fun + 1e-6 or reached <= slow_objective(search.x, logits, labels_N, centers) * 1.02
    )


def test_the_lower_of_two_minima_is_taken() -> None:
    # The best point of the grid is above the higher minimum.
    labels_N, generator = labeled(200, 2, 71400)
    logits = [teacher(kind, labels_N, 2, generator) for kind in ("tiny", "opposite")]
    reached = slow_objective(np.log(fit_multipliers(logits, labels_N)), logits, labels_N, (1.0, 1.0))
    search = optimize.minimize(
        slow_objective, np.zeros(2), (logits, labels_N, (1.0, 1.0)), method="Nelder-Mead"
    )
    assert reached <= search.fun + 1e-4


@pytest.mark.parametrize(
    ("kinds", "classes", "seed"), [(["huge", "perfect"], 5, 788040), (["perfect", "huge", "tiny"], 3, 607901)]
)
def test_huge_logits_are_fitted_in_spite_of_rounding_errors(
    kinds: list[str], classes: int, seed: int
) -> None:
    # Rounding errors of the Hessian are larger than the curvature of the prior.
    labels_N, generator = labeled(200, classes, seed)
    logits = [1000 * teacher(kind, labels_N, classes, generator).double() for kind in kinds]
    fitted = np.log(fit_multipliers(logits, labels_N))
    assert np.isfinite(fitted).all()
    ones, zeros = (1.0,) * len(kinds), np.zeros(len(kinds))
    reached = slow_objective(fitted, logits, labels_N, ones)
    assert reached <= slow_objective(zeros, logits, labels_N, ones)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_the_fit_is_a_stationary_point_below_its_start(problem: tuple[list[str], int, int, int]) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labeled(images, classes, seed)
    logits = [teacher(kind, labels_N, classes, generator) for kind in kinds]
    weights = fit_multipliers(logits, labels_N)
    assert all(0 < weight < float("inf") for weight in weights)
    stack_MNC = torch.stack([z_NC.double() for z_NC in logits])

    def objective(log_M: Tensor) -> Tensor:
        fused_NC = torch.einsum("m,mnc->nc", log_M.exp(), stack_MNC)
        nll = functional.cross_entropy(fused_NC, labels_N)
        return nll + PRIOR_IMAGES / images * log_prior(log_M).sum()

    at = torch.tensor(weights, dtype=torch.float64).log()
    slope_M = torch.autograd.functional.jacobian(objective, at)
    assert slope_M.abs().max() < 1e-5
    assert objective(at) <= objective(torch.zeros_like(at)) + 1e-12


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_derivatives_equal_autograd(num_teachers: int) -> None:
    labels_N, generator = labeled(12, 4, num_teachers)
    stack_MNC = torch.randn(num_teachers, 12, 4, generator=generator, dtype=torch.float64)
    weights_M = torch.rand(num_teachers, generator=generator, dtype=torch.float64)

    def objective(w_M: Tensor) -> Tensor:
        return functional.cross_entropy(torch.einsum("m,mnc->nc", w_M, stack_MNC), labels_N)

    gradient_M, hessian_MM = derivatives(weights_M, stack_MNC, labels_N)
    assert torch.allclose(gradient_M, torch.autograd.functional.jacobian(objective, weights_M), atol=1e-12)
    assert torch.allclose(hessian_MM, torch.autograd.functional.hessian(objective, weights_M), atol=1e-12)


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


def test_opposite_teachers_are_turned_down_as_evidence_grows() -> None:
    weights = []
    for images in (20, 200, 2000, 20_000):
        labels_N, generator = labeled(images, 4, 2)
        pair = [teacher(kind, labels_N, 4, generator) for kind in ("opposite", "skilled")]
        weights.append(fit_multipliers(pair, labels_N)[0])
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] < 0.002 < weights[0] < 1


def test_duplicates_share_one_multiplier() -> None:
    labels_N, generator = labeled(20_000, 4, 3)
    z_NC = teacher("skilled", labels_N, 4, generator)
    (single,) = fit_multipliers([z_NC], labels_N)
    first, second = fit_multipliers([z_NC, z_NC], labels_N, (0.5, 0.5))
    assert first == pytest.approx(second, rel=1e-6)
    assert first + second == pytest.approx(single, rel=0.01)


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
def test_scale_of_logits_and_center_divides_the_multiplier_and_offset_changes_nothing(
    scale: float, offset: float, seed: int
) -> None:
    labels_N, generator = labeled(50, 4, seed)
    first, second = (teacher(kind, labels_N, 4, generator).double() for kind in ("skilled", "skilled"))
    plain = fit_multipliers([first, second], labels_N)
    moved = fit_multipliers([first, scale * second + offset], labels_N, (1.0, 1 / scale))
    assert (moved[0], moved[1] * scale) == pytest.approx(plain, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("images", [8, 30, 200])
@pytest.mark.parametrize("strength", [1.0, 3.0, 10.0])
def test_images_that_are_all_right_do_not_make_a_teacher_certain(images: int, strength: float) -> None:
    """Without a prior, the multiplier is infinite; the growth with the number of images is logarithmic."""
    labels_N = torch.arange(images) % 3
    weight = fit_multipliers([strength * functional.one_hot(labels_N, 3).float()], labels_N)[0]
    assert 1 <= weight < 1 + np.log(1 + images) / strength
