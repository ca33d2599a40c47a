"""Mixup: mixed pixels and targets against loops, and all of it a function of (seed, step)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.types import Batch, Output, Target
from richkd.data.mixup import Mix, draw_mix

IMAGES, CLASSES = 6, 4


def records(seed: int) -> tuple[Target, Batch]:
    """A target of two teachers, one with an intermediate map, and its batch."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(IMAGES, *shape, generator=random).double()

    first = Output(normal(CLASSES), normal(2), (normal(3, 2, 2),))
    second = Output(normal(CLASSES), normal(5))
    weight_B = torch.rand(IMAGES, generator=random).double()
    labels_B = torch.randint(CLASSES, (IMAGES,), generator=random)
    pixels = torch.randint(256, (IMAGES, 2, 2, 3), generator=random, dtype=torch.uint8)
    return (
        Target(3 * normal(CLASSES), (first, second), (0.7, 0.3), weight_B),
        Batch("train", torch.arange(IMAGES) + 10, pixels, labels_B),
    )


def test_pixels_and_records_are_those_of_the_partner() -> None:
    target, batch = records(3)
    mix = draw_mix(1.0, IMAGES, 0, 5)
    at_B = mix.partner_B
    pixels_B3HW = torch.randn(IMAGES, 3, 2, 2)
    expected = mix.share * pixels_B3HW + (1 - mix.share) * pixels_B3HW[at_B]
    assert torch.allclose(mix.pixels(pixels_B3HW), expected)
    other = mix.batch(batch)
    assert other.split == batch.split
    assert torch.equal(other.index_B, batch.index_B[at_B])
    assert torch.equal(other.labels_B, batch.labels_B[at_B])
    assert torch.equal(other.pixels_BHWC, batch.pixels_BHWC[at_B])
    other_target = mix.partners(target)
    assert other_target is not None
    assert torch.equal(other_target.logits_BC, target.logits_BC[at_B])
    for partner, teacher in zip(other_target.teachers, target.teachers, strict=True):
        assert torch.equal(partner.logits_BC, teacher.logits_BC[at_B])
        assert torch.equal(partner.feats_BF, teacher.feats_BF[at_B])
        assert all(torch.equal(a, b[at_B]) for a, b in zip(partner.maps, teacher.maps, strict=True))
    assert other_target.weight_B is not None
    assert target.weight_B is not None
    assert torch.equal(other_target.weight_B, target.weight_B[at_B])
    assert other_target.feature_weights == target.feature_weights
    assert mix.partners(None) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4))
def test_everything_in_a_mixed_target_is_mixed(seed: int, step: int, alpha: float) -> None:
    target, _ = records(seed)
    mix = draw_mix(alpha, IMAGES, seed, step)
    result = mix.target(target)
    assert result is not None

    def mixed(values: torch.Tensor) -> torch.Tensor:
        return mix.share * values + (1 - mix.share) * values[mix.partner_B]

    # Probabilities are mixed, not logits, and the fused logits are their logarithms.
    assert torch.allclose(result.logits_BC.exp(), mixed(target.logits_BC.softmax(dim=1)), atol=1e-12)
    for after, before in zip(result.teachers, target.teachers, strict=True):
        assert torch.allclose(after.logits_BC.exp(), mixed(before.logits_BC.softmax(dim=1)), atol=1e-12)
        assert torch.allclose(after.feats_BF, mixed(before.feats_BF), atol=1e-12)
        for map_after, map_before in zip(after.maps, before.maps, strict=True):
            assert torch.allclose(map_after, mixed(map_before), atol=1e-12)
    assert target.weight_B is not None
    assert result.weight_B is not None
    assert torch.allclose(result.weight_B, mixed(target.weight_B), atol=1e-12)
    assert result.feature_weights == target.feature_weights


def test_a_target_without_weights_or_no_target_stays_so() -> None:
    target, _ = records(1)
    mix = draw_mix(1.0, IMAGES, 0, 0)
    plain = Target(target.logits_BC, target.teachers, target.feature_weights)
    result = mix.target(plain)
    assert result is not None
    assert result.weight_B is None
    assert mix.target(None) is None


def test_a_share_of_one_changes_nothing() -> None:
    target, _ = records(2)
    mix = Mix(1.0, torch.arange(IMAGES).roll(1))
    pixels_B3HW = torch.randn(IMAGES, 3, 2, 2)
    assert torch.equal(mix.pixels(pixels_B3HW), pixels_B3HW)
    result = mix.target(target)
    assert result is not None
    assert torch.allclose(result.logits_BC.softmax(1), target.logits_BC.softmax(1), atol=1e-12)
    assert torch.equal(result.teachers[0].feats_BF, target.teachers[0].feats_BF)


def test_a_draw_is_a_function_of_seed_and_step() -> None:
    first, again = draw_mix(0.4, 8, 1, 2), draw_mix(0.4, 8, 1, 2)
    assert first.share == again.share
    assert torch.equal(first.partner_B, again.partner_B)
    shares = [draw_mix(0.4, 8, 1, step).share for step in range(2000)]
    assert min(shares) >= 0.5
    # Of Beta(a, a), E max(x, 1 − x) = ½ + E|x − ½|; by numerical integration 0.858 for a = 0.4.
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    density = (grid * (1 - grid)).pow(-0.6)
    expected = float((torch.maximum(grid, 1 - grid) * density).sum() / density.sum())
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=0.01)
