"""Simulated experts: a fit from few images is hardly ever worse than no fit.

The experts see Gaussian evidence for the true class, so their logits are calibrated, times a factor. The
test NLL is measured on other images of the same experts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from richkd.config.schema import FusionConfig
from richkd.fusion.fuse import fuse
from richkd.fusion.held_out import HeldOut
from richkd.metrics.calibration import fit_temperature

TEST_IMAGES = 1000
# Bounds on the excess of test NLL in nats: of the mean over draws, and of each draw.
MEAN, WORST = 0.02, 0.5


def expert(labels_N: Tensor, classes: int, strength: float, factor: float, common_NC: Tensor) -> Tensor:
    """Logits ``factor · (d² · 1[c = y] + d · ε)``; half of the variance of ε is common to all experts."""
    individual_NC = torch.randn(common_NC.shape, dtype=torch.float64)
    noise_NC = (individual_NC + common_NC) / 2**0.5
    truth_NC = functional.one_hot(labels_N, classes).double()
    return factor * (strength**2 * truth_NC + strength * noise_NC)


def draw(images: int, classes: int, experts: list[tuple[float, float]]) -> tuple[list[Tensor], Tensor]:
    labels_N = torch.randint(classes, (images,))
    common_NC = torch.randn(images, classes, dtype=torch.float64)
    return [expert(labels_N, classes, *one, common_NC) for one in experts], labels_N


def nll(logits_NC: Tensor, labels_N: Tensor) -> float:
    return float(functional.cross_entropy(logits_NC, labels_N))


def temperature_excess(images: int, classes: int, strength: float, factor: float) -> float:
    (fit_NC,), fit_N = draw(images, classes, [(strength, factor)])
    (test_NC,), test_N = draw(TEST_IMAGES, classes, [(strength, factor)])
    return nll(test_NC / fit_temperature(fit_NC, fit_N), test_N) - nll(test_NC, test_N)


def fusion_excess(images: int, classes: int, experts: list[tuple[float, float]]) -> float:
    """Test NLL of the fitted fusion minus that of the paper's, for an expert and a CLIP of scale 100."""
    (fit_NC, fit_clip_NC), fit_N = draw(images, classes, experts)
    (test_NC, test_clip_NC), test_N = draw(TEST_IMAGES, classes, experts)
    held_out = HeldOut(["teacher", "CLIP"], [fit_NC, fit_clip_NC / 100], fit_N, "val")
    fitted = fuse(FusionConfig(), [1.0, 100.0], held_out)
    paper = fuse(FusionConfig(preset="paper"), [1.0, 100.0], None)
    test = [test_NC, test_clip_NC / 100]
    return nll(fitted.logits(test), test_N) - nll(paper.logits(test), test_N)


def check(excesses: list[float]) -> None:
    mean = sum(excesses) / len(excesses)
    assert mean <= MEAN, f"mean {mean:.3f}"
    assert max(excesses) <= WORST, f"worst {max(excesses):.3f}"


CASES = [(3, 1.5), (10, 2.0), (10, 4.0), (100, 3.0)]


@pytest.mark.parametrize(("classes", "strength"), CASES)
@pytest.mark.parametrize("images", [8, 30, 200])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_temperature_is_no_risk(images: int, classes: int, strength: float, factor: float) -> None:
    torch.manual_seed(0)
    check([temperature_excess(images, classes, strength, factor) for _ in range(10)])


@pytest.mark.parametrize(("classes", "strength"), CASES)
@pytest.mark.parametrize("images", [8, 30])
def test_a_fusion_is_no_risk(images: int, classes: int, strength: float) -> None:
    torch.manual_seed(0)
    check([fusion_excess(images, classes, [(2.0, 1.0), (strength, 1.0)]) for _ in range(4)])


def test_eight_images_that_are_all_right_leave_the_temperature_near_one() -> None:
    torch.manual_seed(0)
    (fit_NC,), fit_N = draw(8, 10, [(8.0, 1.0)])
    assert bool((fit_NC.argmax(1) == fit_N).all())
    assert 0.9 < fit_temperature(fit_NC, fit_N) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "strength"), [(3, 1.5), (10, 2.0), (100, 3.0)])
@pytest.mark.parametrize("images", [8, 12, 30])
def test_a_thousand_draws_hold_no_bad_surprise(images: int, classes: int, strength: float) -> None:
    torch.manual_seed(1)
    draws = 1000 if classes < 100 else 200
    check([temperature_excess(images, classes, strength, 1.0) for _ in range(draws)])
    check([fusion_excess(images, classes, [(2.0, 1.0), (strength, 1.0)]) for _ in range(draws)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "experts", [[(3.0, 1.0), (2.0, 1.0)], [(2.0, 3.0), (4.0, 0.7)], [(0.3, 1.0), (3.0, 1.0)]]
)
@pytest.mark.parametrize("images", [50, 100, 500, 2000])
def test_choosing_a_mixing_is_no_risk(images: int, experts: list[tuple[float, float]]) -> None:
    torch.manual_seed(2)
    check([fusion_excess(images, 10, experts) for _ in range(100 if images <= 100 else 10)])
