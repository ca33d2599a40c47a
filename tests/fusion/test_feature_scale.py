"""Scales of features: what they make equal, and what they must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.fusion.feature_scale import equalizing, fit_feature_scale


def random_features(images: int, width: int, seed: int) -> torch.Tensor:
    """Features whose dimensions hang together and differ a thousandfold in size."""
    random = torch.Generator().manual_seed(seed)
    mixed_FF = torch.randn(width, width, generator=random).double()
    sizes_F = 10.0 ** torch.linspace(-2, 1, width).double()
    return torch.randn(images, width, generator=random).double() @ mixed_FF * sizes_F + 5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 17), st.integers(0, 99))
def test_every_dimension_has_no_mean_and_unit_variance(width: int, seed: int) -> None:
    feats_NF = random_features(60, width, seed)
    for phi_s in (False, True):
        scaled_NF = fit_feature_scale(feats_NF, phi_s=phi_s)(feats_NF)
        assert torch.allclose(scaled_NF.mean(0), torch.zeros(width).double(), atol=1e-8)
        assert torch.allclose(scaled_NF.var(0, correction=0), torch.ones(width).double(), atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 17), st.integers(0, 99))
def test_phi_s_keeps_the_proportions_of_distances(width: int, seed: int) -> None:
    feats_NF = random_features(30, width, seed)
    scaled_NF = fit_feature_scale(feats_NF, phi_s=True)(feats_NF)
    ratios = torch.pdist(scaled_NF) / torch.pdist(feats_NF)
    assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-7)


def test_scaling_each_dimension_is_subtraction_and_division() -> None:
    feats_NF = random_features(50, 6, 1)
    expected = (feats_NF - feats_NF.mean(0)) / feats_NF.std(0, correction=0)
    result = fit_feature_scale(feats_NF, phi_s=False)(feats_NF)
    assert torch.allclose(result, expected, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(0, 999))
def test_a_rotation_makes_all_variances_equal(width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    root_FF = random.normal(size=(width, width)) * 10.0 ** random.uniform(-3, 3, width)
    covariance_FF = root_FF @ root_FF.T
    rotation_FF = equalizing(covariance_FF)
    assert np.allclose(rotation_FF @ rotation_FF.T, np.eye(width), atol=1e-9)
    variances = np.diag(rotation_FF @ covariance_FF @ rotation_FF.T)
    assert np.allclose(variances, np.trace(covariance_FF) / width, rtol=1e-7)


@pytest.mark.parametrize("phi_s", [False, True])
def test_what_does_not_vary_becomes_zero_and_not_nan(phi_s: bool) -> None:
    feats_NF = torch.full((10, 4), 3.0)
    scale = fit_feature_scale(feats_NF, phi_s=phi_s)
    assert torch.equal(scale(feats_NF), torch.zeros(10, 4))
    feats_NF = torch.cat([feats_NF, torch.randn(10, 1)], dim=1)
    assert bool(fit_feature_scale(feats_NF, phi_s=phi_s)(feats_NF).isfinite().all())
