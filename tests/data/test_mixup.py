"""Mixup and CutMix: mixed pixels and targets against loops, and all of it a function of (seed, step)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.config.schema import AugmentConfig
from richkd.core.types import Batch, Output, Target
from richkd.data.mixup import Mix, draw_cutmix, draw_mix, draw_mixup

IMAGES, CLASSES, SHAPE = 6, 4, (6, 3, 9, 8)


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
    mix = draw_mixup(1.0, IMAGES, 0, 5)
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
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4), st.booleans())
def test_everything_in_a_mixed_target_is_mixed(seed: int, step: int, alpha: float, cut: bool) -> None:
    target, _ = records(seed)
    mix = draw_cutmix(alpha, IMAGES, (9, 8), seed, step) if cut else draw_mixup(alpha, IMAGES, seed, step)
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
    mix = draw_mixup(1.0, IMAGES, 0, 0)
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
    first, again = draw_mixup(0.4, 8, 1, 2), draw_mixup(0.4, 8, 1, 2)
    assert first.share == again.share
    assert torch.equal(first.partner_B, again.partner_B)
    shares = [draw_mixup(0.4, 8, 1, step).share for step in range(2000)]
    assert min(shares) >= 0.5
    # Of Beta(a, a), E max(x, 1 − x) = ½ + E|x − ½|; by numerical integration 0.858 for a = 0.4.
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    density = (grid * (1 - grid)).pow(-0.6)
    expected = float((torch.maximum(grid, 1 - grid) * density).sum() / density.sum())
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4))
def test_the_share_of_cutmix_is_the_number_of_pixels(seed: int, step: int, alpha: float) -> None:
    mix = draw_cutmix(alpha, IMAGES, (9, 8), seed, step)
    numbered_B3HW = torch.arange(IMAGES)[:, None, None, None].expand(IMAGES, 3, 9, 8).double()
    mixed_B3HW = mix.pixels(numbered_B3HW)
    for image, partner in enumerate(mix.partner_B.tolist()):
        assert mixed_B3HW[image].unique().tolist() in ([image], [partner], sorted({image, partner}))
        if partner != image:
            count = int((mixed_B3HW[image, 0] == image).sum())
            assert mix.share == pytest.approx(count / 72, abs=1e-12)
            assert count >= 36
    assert sorted(mix.partner_B.tolist()) == list(range(IMAGES))


def test_each_step_has_mixup_or_cutmix_and_depends_on_seed_and_step_only() -> None:
    both = AugmentConfig(mixup_alpha=0.4, cutmix_alpha=1.0, mixup_switch_prob=0.3)
    mixes = [draw_mix(both, SHAPE, 1, step) for step in range(2000)]
    for step, mix in enumerate(mixes):
        cut = draw_cutmix(1.0, IMAGES, (9, 8), 1, step)
        expected = draw_mixup(0.4, IMAGES, 1, step) if mix is None or mix.box is None else cut
        assert mix is not None
        assert (mix.share, mix.box) == (expected.share, expected.box)
        assert torch.equal(mix.partner_B, expected.partner_B)
    # Four standard deviations of the number of steps with CutMix.
    cuts = sum(mix is not None and mix.box is not None for mix in mixes)
    assert abs(cuts - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5
    other = [draw_mix(both, SHAPE, 2, step) for step in range(50)]
    assert [mix and mix.share for mix in other] != [mix and mix.share for mix in mixes[:50]]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_one_setting_alone_is_used_in_every_step_and_none_in_no_step(alpha: float) -> None:
    for step in range(20):
        mixup = draw_mix(AugmentConfig(mixup_alpha=alpha), SHAPE, 0, step)
        cutmix = draw_mix(AugmentConfig(cutmix_alpha=alpha), SHAPE, 0, step)
        assert mixup is not None
        assert mixup.share == draw_mixup(alpha, IMAGES, 0, step).share
        assert cutmix is not None
        assert cutmix.box == draw_cutmix(alpha, IMAGES, (9, 8), 0, step).box
        assert draw_mix(AugmentConfig(), SHAPE, 0, step) is None
