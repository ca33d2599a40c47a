"""Unit-norm rows and fused embeddings against loops, closed forms and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.losses.features import fuse_features, mean_over_teachers, normalize
from tests.reference import losses as slow

shapes = st.tuples(st.integers(1, 5), st.integers(2, 9))
seeds = st.integers(0, 10_000)


def random_rows(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(fast: torch.Tensor, expected: slow.Rows) -> None:
    torch.testing.assert_close(fast, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(shapes, seeds, st.floats(1e-6, 1e6))
def test_normalized_equals_the_loop(shape: tuple[int, int], seed: int, scale: float) -> None:
    x_BD = scale * random_rows(shape, seed)
    close(normalize(x_BD), slow.normalize(x_BD))


@settings(max_examples=30, deadline=None)
@given(shapes, seeds, st.lists(st.floats(0.05, 1), min_size=1, max_size=4))
def test_fusion_equals_the_loop(shape: tuple[int, int], seed: int, raw: list[float]) -> None:
    weights = [weight / sum(raw) for weight in raw]
    feats = [normalize(random_rows(shape, seed + m)) for m in range(len(raw))]
    close(fuse_features(feats, weights), slow.fuse_features(feats, weights))


def test_a_row_of_zeros_stays_zero_with_zero_gradient() -> None:
    x_BD = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit_BD = normalize(x_BD)
    unit_BD.sum().backward()
    assert unit_BD.tolist() == [[0.0, 0.0], pytest.approx([0.6, 0.8])]
    assert x_BD.grad[0].tolist() == [0.0, 0.0]
    # ∂/∂x Σ x/‖x‖ = (1 − u·Σu)/‖x‖ with u = (0.6, 0.8).
    assert x_BD.grad[1].tolist() == pytest.approx([(1 - 0.6 * 1.4) / 5, (1 - 0.8 * 1.4) / 5])


def test_closed_forms() -> None:
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert fuse_features([right, up], [0.5, 0.5])[0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert fuse_features([right, up], [1.0, 0.0])[0].tolist() == [1.0, 0.0]
    assert fuse_features([right, up], [0.6, 0.4])[0].tolist() == pytest.approx(
        [0.6 / math.hypot(0.6, 0.4), 0.4 / math.hypot(0.6, 0.4)]
    )


def test_gradients_reach_every_teacher() -> None:
    feats = [random_rows((3, 4), seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(normalize, feats[0])
    assert torch.autograd.gradcheck(lambda a, b: fuse_features([a, b], [0.7, 0.3]), tuple(feats))


def test_losses_of_three_teachers_have_their_own_weights() -> None:
    losses = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 10.0, 100.0)]
    total = mean_over_teachers(losses, [0.5, 0.3, 0.2])
    assert total.item() == pytest.approx(0.5 + 3 + 20, rel=1e-12)
    assert [float(g) for g in torch.autograd.grad(total, losses)] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_float32(dtype: torch.dtype) -> None:
    feats = [random_rows((4, 64), seed).to(dtype) for seed in (0, 1)]
    fused_BD = fuse_features(feats, [0.7, 0.3])
    assert fused_BD.dtype == torch.float32
    expected = torch.tensor(slow.fuse_features(feats, [0.7, 0.3]))
    torch.testing.assert_close(fused_BD, expected, rtol=1e-5, atol=1e-6)
    assert normalize(feats[0]).norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "weights", "words"),
    [
        (2, [0.7], "1 weights for 2 teachers"),
        (0, [], "0 weights for 0 teachers"),
        (2, [0.7, 0.7], "sum 1.4"),
        (2, [1.5, -0.5], "-0.5"),
        (2, [math.nan, 0.5], "nan"),
    ],
)
def test_weights_are_checked(count: int, weights: list[float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fuse_features([torch.eye(2)] * count, weights)


def test_widths_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 2\), \(2, 3\)"):
        fuse_features([torch.eye(2), torch.ones(2, 3)], [0.5, 0.5])
