"""Scales: what they leave unchanged is what they claim to forget."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.fusion.scale import Scale, on_scales, standardized


def logits(seed: int, images: int = 6, classes: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(images, classes, generator=generator, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_standardized_logits_forget_size_and_offset_of_each_image(
    seed: int, size: float, offset: float
) -> None:
    z_NC = logits(seed)
    sizes_N1 = size * torch.arange(1, 7, dtype=torch.float64)[:, None]
    scale = Scale(3.0, standardized=True)
    torch.testing.assert_close(scale(sizes_N1 * z_NC + offset), scale(z_NC), rtol=1e-6, atol=1e-6)
    plain_NC = standardized(z_NC)
    torch.testing.assert_close(plain_NC.mean(1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(plain_NC.std(1, correction=0), torch.ones(6, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(-100, 100), st.floats(0.01, 100))
def test_every_scale_gives_log_probabilities_and_forgets_an_offset(
    seed: int, offset: float, multiplier: float
) -> None:
    z_NC = logits(seed)
    for flag in (False, True):
        log_NC = Scale(multiplier, flag)(z_NC)
        torch.testing.assert_close(log_NC.exp().sum(1), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(Scale(multiplier, flag)(z_NC + offset), log_NC, rtol=1e-6, atol=1e-6)


def test_a_flat_image_is_uniform_and_not_rounding_blown_up() -> None:
    flat_NC = torch.full((2, 4), 31.7)
    flat_NC[1] = flat_NC[1].nextafter(torch.tensor(99.0))
    flat_NC[1, 0] = 31.7
    assert torch.equal(standardized(flat_NC), torch.zeros(2, 4))
    uniform_NC = Scale(100.0, standardized=True)(flat_NC).exp()
    torch.testing.assert_close(uniform_NC, torch.full((2, 4), 0.25))


def test_each_teacher_goes_through_its_own_scale() -> None:
    z_NC = logits(0)
    first, second = on_scales([Scale(1.0), Scale(100.0)], [z_NC, z_NC / 100])
    torch.testing.assert_close(first, second)
    assert Scale()(z_NC.half()).dtype == torch.float32
