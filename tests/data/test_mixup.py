"""Mixup: the blend of two losses is the loss of the blend, and all of it a function of (seed, step)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from richkd.config.schema import MethodConfig
from richkd.core.types import Batch, Output, Target
from richkd.data.mixup import draw_mix
from richkd.methods.presets import Context, ce, kd

IMAGES, CLASSES = 6, 4


def records(seed: int) -> tuple[Output, Target, Batch]:
    random = torch.Generator().manual_seed(seed)

    def output() -> Output:
        return Output(torch.randn(IMAGES, CLASSES, generator=random).double(), torch.zeros(IMAGES, 2))

    labels_B = torch.randint(CLASSES, (IMAGES,), generator=random)
    pixels = torch.randint(256, (IMAGES, 2, 2, 3), generator=random, dtype=torch.uint8)
    teacher = output()
    return (
        output(),
        Target(teacher.logits_BC, (teacher,), (1.0,)),
        Batch("train", torch.arange(IMAGES) + 10, pixels, labels_B),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4))
def test_the_blended_loss_is_the_loss_of_the_blended_target(seed: int, step: int, strength: float) -> None:
    student, target, batch = records(seed)
    mix = draw_mix(strength, IMAGES, seed, step)
    context = Context(MethodConfig(temperature=2.0, ce=1.0, logits=1.0), step)
    partners = mix.partners(target, batch)
    result = {
        name: mix.terms(method(student, target, batch, context), method(student, *partners, context)).terms
        for name, method in (("ce", ce), ("kd", kd))
    }
    share, other_B = mix.share, mix.partner_B
    hot_BC = functional.one_hot(batch.labels_B, CLASSES).double()
    labels_BC = share * hot_BC + (1 - share) * hot_BC[other_B]
    expected = functional.cross_entropy(student.logits_BC, labels_BC)
    assert result["ce"]["ce"].item() == pytest.approx(expected.item(), rel=1e-9)
    # KL of the blend differs from the blend of KLs by entropies of the targets, which no gradient sees.
    soft_BC = (target.logits_BC / 2).softmax(dim=1)
    blend_BC = share * soft_BC + (1 - share) * soft_BC[other_B]
    entropies = (share * _entropy(soft_BC) + (1 - share) * _entropy(soft_BC[other_B])) - _entropy(blend_BC)
    student_log_BC = (student.logits_BC / 2).log_softmax(dim=1)
    divergence = 4 * (functional.kl_div(student_log_BC, blend_BC, reduction="batchmean") - entropies)
    assert result["kd"]["logits"].item() == pytest.approx(divergence.item(), rel=1e-9, abs=1e-12)


def _entropy(probs_BC: torch.Tensor) -> torch.Tensor:
    return -(probs_BC * probs_BC.log()).sum(dim=1).mean()


def test_pixels_and_records_are_those_of_the_partner() -> None:
    _, target, batch = records(3)
    mix = draw_mix(1.0, IMAGES, 0, 5)
    pixels_B3HW = torch.randn(IMAGES, 3, 2, 2)
    expected = mix.share * pixels_B3HW + (1 - mix.share) * pixels_B3HW[mix.partner_B]
    assert torch.allclose(mix.pixels(pixels_B3HW), expected)
    other_target, other = mix.partners(target, batch)
    assert other_target is not None
    assert torch.equal(other.index_B, batch.index_B[mix.partner_B])
    assert torch.equal(other.labels_B, batch.labels_B[mix.partner_B])
    assert torch.equal(other.pixels_BHWC, batch.pixels_BHWC[mix.partner_B])
    assert torch.equal(other_target.logits_BC, target.logits_BC[mix.partner_B])
    assert torch.equal(other_target.teachers[0].logits_BC, target.logits_BC[mix.partner_B])
    assert mix.partners(None, batch)[0] is None


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
