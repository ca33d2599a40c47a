"""Fusion: multipliers of the presets, and fitted ones that no expert or preset beats on its own images."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from richkd.config import FusionConfig
from richkd.errors import ConfigError
from richkd.fusion import (
    MAX_MULTIPLIER,
    Fusion,
    _derivatives,
    alone,
    feature_shares,
    fit_multipliers,
    fitted,
    fixed,
    fused_logits,
    signal_nats,
)
from richkd.records import Output
from tests.reference import fusion as slow

KINDS = ["skilled", "chance", "constant", "duplicate", "opposite", "perfect", "tiny", "huge"]
ROUNDING = 1e-9


def labelled(images: int, classes: int, seed: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (images,), generator=generator), generator


def expert(kind: str, labels_N: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Float32 logits of an expert; "skilled" is right more often than not and never sure."""
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
    fused_NC = fused_logits([z_NC.double() for z_NC in logits], weights)
    return float(functional.cross_entropy(fused_NC, labels_N))


def best_single(z_NC: Tensor, labels_N: Tensor) -> float:
    """NLL of one expert at its best temperature, searched on a grid of 1/T and then by golden section."""

    def at(log_weight: float) -> float:
        return nll([z_NC], (float(np.exp(log_weight)),), labels_N)

    # Steeper than the largest multiplier is no temperature that is fitted.
    spread = (z_NC.double() - z_NC.double().mean(1, keepdim=True)).std().clamp(min=1e-3).item()
    grid = np.linspace(np.log(1e-4 / spread), np.log(MAX_MULTIPLIER / spread), 60)
    values = [at(point) for point in grid]
    i = int(np.argmin(values))
    bounds = (grid[max(i - 1, 0)], grid[min(i + 1, 59)])
    return min(*values, optimize.minimize_scalar(at, bounds=bounds, method="bounded").fun)


# Presets


def test_multipliers_of_the_presets() -> None:
    paper = fixed(FusionConfig(preset="paper"), (1.0, 100.0))
    assert paper.logit_weights == pytest.approx((0.7, 30.0))
    assert fixed(FusionConfig(preset="as-released"), (1.0, 100.0)).logit_weights == pytest.approx((0.7, 0.3))
    assert fixed(FusionConfig(preset="paper", alpha=0.25), (1.0, 80.0)).logit_weights == (0.25, 60.0)
    assert fixed(FusionConfig(preset="paper"), (100.0,)).logit_weights == (100.0,)
    assert fixed(FusionConfig(preset="as-released"), (100.0,)).logit_weights == (1.0,)
    given_ones = FusionConfig(preset="paper", weights=(0.5, 40.0))
    assert fixed(given_ones, (1.0, 100.0)).logit_weights == (0.5, 40.0)
    assert alone().logit_weights == alone().feature_weights == (1.0,)


def test_shares_of_features() -> None:
    assert feature_shares(FusionConfig(), 2) == pytest.approx((0.7, 0.3))
    assert feature_shares(FusionConfig(lam=0.2), 2) == pytest.approx((0.2, 0.8))
    assert feature_shares(FusionConfig(lam=0.2), 1) == (1.0,)
    assert fixed(FusionConfig(preset="paper", alpha=0.1), (1.0, 100.0)).feature_weights == pytest.approx(
        (0.7, 0.3)
    )


def test_the_log_says_where_multipliers_came_from() -> None:
    assert "as released" in fixed(FusionConfig(preset="as-released"), (1.0, 100.0)).origin
    labels_N, generator = labelled(20, 3, 0)
    z_NC = expert("skilled", labels_N, 3, generator)
    assert fitted(FusionConfig(), [z_NC, z_NC], labels_N, "val").origin == "fitted on 20 images of val"


def test_as_many_multipliers_as_experts() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.weights(.|\n)*Got: 3 for 2 experts"):
        fixed(FusionConfig(weights=(1, 2, 3)), (1.0, 100.0))


def test_a_fusion_is_the_weighted_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = [
        Output(torch.randn(4, 5, generator=generator), torch.randn(4, w, generator=generator)) for w in (3, 7)
    ]
    target = Fusion((0.7, 30.0), (0.6, 0.4), "test")(experts)
    expected = slow.fused([e.logits_BC for e in experts], (0.7, 30.0))
    assert np.allclose(target.logits_BC, expected, rtol=1e-6, atol=1e-5)
    assert target.experts == tuple(experts)
    assert target.feature_weights == (0.6, 0.4)


# Fitting

problems = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.integers(20, 70),
    st.integers(2, 6),
    st.integers(0, 10_000),
)


@settings(max_examples=80, deadline=None)
@given(problems)
def test_fitted_beats_every_expert_and_every_preset(problem: tuple[list[str], int, int, int]) -> None:
    kinds, images, classes, seed = problem
    labels_N, generator = labelled(images, classes, seed)
    logits = [expert(kind, labels_N, classes, generator) for kind in kinds]
    weights = fit_multipliers(logits, labels_N)
    assert all(0 <= weight < float("inf") for weight in weights)
    reached = nll(logits, weights, labels_N)
    # In float32, as in training, the fusion is as good: no multiplier drowns the other experts.
    fused_NC = fused_logits(logits, weights)
    assert float(functional.cross_entropy(fused_NC, labels_N)) == pytest.approx(reached, abs=2e-3)
    assert reached <= np.log(classes) + ROUNDING
    for z_NC in logits:
        assert reached <= best_single(z_NC, labels_N) + ROUNDING
    # Presets may pass the largest multiplier that is fitted where an expert is huge.
    if len(kinds) == 2 and "huge" not in kinds:
        for preset in ("paper", "as-released"):
            other = fixed(FusionConfig(preset=preset), (1.0, 100.0))
            assert reached <= nll(logits, other.logit_weights, labels_N) + ROUNDING


def test_constant_experts_have_no_say() -> None:
    labels_N, generator = labelled(40, 4, 1)
    skilled, constant = (expert(kind, labels_N, 4, generator) for kind in ("skilled", "constant"))
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


def test_opposite_experts_are_turned_off_not_around() -> None:
    labels_N, generator = labelled(200, 4, 2)
    skilled, opposite = (expert(kind, labels_N, 4, generator) for kind in ("skilled", "opposite"))
    weights = fit_multipliers([opposite, skilled], labels_N)
    assert weights[0] == 0
    assert weights[1] > 0
    assert fit_multipliers([opposite], labels_N)[0] == pytest.approx(0, abs=1e-8)


def test_duplicates_share_one_multiplier() -> None:
    labels_N, generator = labelled(60, 4, 3)
    z_NC = expert("skilled", labels_N, 4, generator)
    (single,) = fit_multipliers([z_NC], labels_N)
    assert sum(fit_multipliers([z_NC, z_NC], labels_N)) == pytest.approx(single, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["skilled", "chance", "opposite", "tiny"]), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
def test_fit_equals_a_general_optimiser(kinds: list[str], seed: int) -> None:
    classes = 4
    labels_N, generator = labelled(60, classes, seed)
    logits = [expert(kind, labels_N, classes, generator) for kind in kinds]
    scales = [float(z_NC.double().std()) for z_NC in logits]

    def objective(scaled: np.ndarray) -> float:
        return nll(logits, tuple(w / s for w, s in zip(scaled, scales, strict=True)), labels_N)

    found = optimize.minimize(
        objective, np.ones(len(kinds)), method="L-BFGS-B", bounds=[(0, None)] * len(kinds), tol=1e-12
    )
    weights = fit_multipliers(logits, labels_N)
    assert nll(logits, weights, labels_N) <= found.fun + ROUNDING
    assert np.allclose(np.multiply(weights, scales), found.x, rtol=0.01, atol=2e-3)


def test_nll_of_the_fit_equals_the_loop() -> None:
    labels_N, generator = labelled(30, 5, 4)
    logits = [expert(kind, labels_N, 5, generator) for kind in ("skilled", "tiny")]
    weights = fit_multipliers(logits, labels_N)
    reached = slow.nll(logits, weights, labels_N)
    assert reached == pytest.approx(nll(logits, weights, labels_N), rel=1e-9)
    for i, factor in itertools.product(range(2), (0.9, 1.1)):
        moved = [w * factor if m == i else w for m, w in enumerate(weights)]
        assert slow.nll(logits, moved, labels_N) > reached


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 10_000))
def test_names_and_order_of_classes_do_not_matter(order: list[int], seed: int) -> None:
    labels_N, generator = labelled(50, 5, seed)
    logits = [expert(kind, labels_N, 5, generator) for kind in ("skilled", "tiny")]
    place = torch.tensor(order)
    # Class order[c] becomes class c.
    renamed = fit_multipliers([z_NC[:, place] for z_NC in logits], place.argsort()[labels_N])
    assert renamed == pytest.approx(fit_multipliers(logits, labels_N), rel=1e-5, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-50, 50), st.integers(0, 10_000))
def test_scale_divides_the_multiplier_and_offset_changes_nothing(
    scale: float, offset: float, seed: int
) -> None:
    labels_N, generator = labelled(50, 4, seed)
    first, second = (expert(kind, labels_N, 4, generator).double() for kind in ("skilled", "skilled"))
    plain = fit_multipliers([first, second], labels_N)
    moved = fit_multipliers([first, scale * second + offset], labels_N)
    assert (moved[0], moved[1] * scale) == pytest.approx(plain, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_derivatives_equal_autograd(experts: int) -> None:
    labels_N, generator = labelled(12, 4, experts)
    stack_MNC = torch.randn(experts, 12, 4, generator=generator, dtype=torch.float64)
    weights_M = torch.rand(experts, generator=generator, dtype=torch.float64)

    def objective(w_M: Tensor) -> Tensor:
        return functional.cross_entropy(torch.einsum("m,mnc->nc", w_M, stack_MNC), labels_N)

    gradient_M, hessian_MM = _derivatives(weights_M, stack_MNC, labels_N)
    assert torch.allclose(gradient_M, torch.autograd.functional.jacobian(objective, weights_M), atol=1e-12)
    assert torch.allclose(hessian_MM, torch.autograd.functional.hessian(objective, weights_M), atol=1e-12)


def test_a_given_alpha_mixes_calibrated_experts() -> None:
    labels_N, generator = labelled(80, 4, 5)
    logits = [expert(kind, labels_N, 4, generator) for kind in ("skilled", "tiny")]
    own = [fit_multipliers([z_NC], labels_N)[0] for z_NC in logits]
    fusion = fitted(FusionConfig(alpha=0.25, lam=0.5), logits, labels_N, "val")
    assert fusion.logit_weights == pytest.approx((0.25 * own[0], 0.75 * own[1]))
    assert fusion.feature_weights == (0.5, 0.5)
    free = fitted(FusionConfig(), logits, labels_N, "val")
    assert nll(logits, free.logit_weights, labels_N) <= nll(logits, fusion.logit_weights, labels_N)
    # A single expert has nothing to be mixed with.
    assert fitted(FusionConfig(alpha=0.25), logits[:1], labels_N, "val").logit_weights == pytest.approx(
        own[:1]
    )


# How much CLIP says


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.floats(0.1, 2), st.floats(0, 50)), st.floats(0.5, 8), st.integers(0, 10_000))
def test_signal_equals_the_loop(weights: tuple[float, float], temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = [scale * torch.randn(5, 6, generator=generator, dtype=torch.float64) for scale in (4, 0.03)]
    fast = signal_nats(logits, weights, temperature).item()
    assert fast == pytest.approx(slow.signal_nats(logits, weights, temperature), rel=1e-6, abs=1e-12)


def test_a_clip_that_is_constant_says_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher_BC = 5 * torch.randn(20, 10, generator=generator, dtype=torch.float64)
    constant_BC = torch.rand(20, 1, generator=generator, dtype=torch.float64).expand(20, 10)
    assert signal_nats([teacher_BC, constant_BC], (0.7, 30.0), 3.0).abs() < 1e-12
    assert signal_nats([teacher_BC, constant_BC.cumsum(1)], (0.7, 30.0), 3.0) > 0.1


def test_cosines_of_a_real_clip_are_drowned_as_released(data_dir: Path) -> None:
    stored = np.load(data_dir / "clip-vitb32" / "caltech101_clip_vitb32.npz")
    test_N = stored["split"] == "test"
    assert test_N.sum() == 2465
    feats = functional.normalize(torch.from_numpy(stored["image_features"][test_N]).float(), dim=1)
    texts = functional.normalize(torch.from_numpy(stored["text_features"]).float(), dim=1)
    cosines_NC = feats @ texts.T
    labels_N = torch.from_numpy(stored["label"][test_N]).long()
    # A classifier whose logits spread by a few units and which is right on some two thirds of the images.
    generator = torch.Generator().manual_seed(0)
    noise_NC = torch.randn(cosines_NC.shape, generator=generator)
    teacher_NC = 3 * (noise_NC + 3 * functional.one_hot(labels_N, 100))
    assert 0.5 < (teacher_NC.argmax(1) == labels_N).float().mean() < 0.8
    logits = [teacher_NC, cosines_NC]
    released, paper = (
        fixed(FusionConfig(preset=preset), (1.0, 100.0)).logit_weights for preset in ("as-released", "paper")
    )
    assert signal_nats(logits, released, 3.0) < 1e-4
    assert signal_nats(logits, paper, 3.0) > 1e-2

    def accuracy(weights: tuple[float, ...]) -> float:
        return float((fused_logits(logits, weights).argmax(1) == labels_N).float().mean())

    alone_accuracy = accuracy((1.0, 0.0))
    assert accuracy(released) == pytest.approx(alone_accuracy, abs=0.01)
    half = torch.arange(len(labels_N)) % 2 == 0
    weights = fit_multipliers([z_NC[half] for z_NC in logits], labels_N[half])
    assert accuracy(weights) > max(alone_accuracy, accuracy((0.0, 1.0)), accuracy(paper))
