"""Ways of mixing against loops over images and classes, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from richkd.fusion.mixing import Gate, LinearPool, LogPool, PerClass, sureness


def two(seed: int, images: int = 4, classes: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (2 * torch.randn(images, classes, generator=generator, dtype=torch.float64)).log_softmax(1)
        for _ in range(2)
    ]


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1))
def test_pools_equal_the_loops(seed: int, w: float) -> None:
    logs = two(seed)
    linear_NC = LinearPool((w, 1 - w))(logs).exp()
    product_NC = LogPool((w, 1 - w))(logs).softmax(1)
    for n in range(4):
        a, b = (log_NC[n].exp().tolist() for log_NC in logs)
        mean = [w * x + (1 - w) * y for x, y in zip(a, b, strict=True)]
        assert linear_NC[n].tolist() == pytest.approx(mean)
        product = [x**w * y ** (1 - w) for x, y in zip(a, b, strict=True)]
        assert product_NC[n].tolist() == pytest.approx([x / sum(product) for x in product])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_weights_for_each_class_equal_the_loop(seed: int) -> None:
    logs = two(seed)
    weights = ((0.5, 1.0, 0.0), (0.2, 0.3, 2.0))
    fused_NC = PerClass(weights)(logs)
    for n in range(4):
        expected = [sum(weights[m][c] * float(logs[m][n, c]) for m in range(2)) for c in range(3)]
        assert fused_NC[n].tolist() == pytest.approx(expected)
    same = PerClass(((0.7,) * 3, (0.3,) * 3))
    torch.testing.assert_close(same(logs), LogPool((0.7, 0.3))(logs))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(-2, 2))
def test_a_gate_equals_the_loop(seed: int, slope: float) -> None:
    logs = two(seed)
    fused_NC = Gate((0.6, 0.4), (slope, 0.5))(logs)
    for n in range(4):
        weights = []
        for log_NC, w, b in zip(logs, (0.6, 0.4), (slope, 0.5), strict=True):
            p = log_NC[n].exp().tolist()
            sure = 1 + sum(x * math.log(x) for x in p) / math.log(3)
            weights.append(w * math.exp(b * (sure - 0.5)))
        expected = [sum(weights[m] * float(logs[m][n, c]) for m in range(2)) for c in range(3)]
        assert fused_NC[n].tolist() == pytest.approx(expected)
    torch.testing.assert_close(Gate((0.6, 0.4), (0, 0))(logs), LogPool((0.6, 0.4))(logs))


def test_a_teacher_of_no_weight_is_not_heard_even_where_it_is_certain() -> None:
    certain = torch.tensor([[0.0, -math.inf, -math.inf]])
    other = torch.tensor([[0.2, 0.3, 0.5]]).log()
    torch.testing.assert_close(LinearPool((0.0, 1.0))([certain, other]), other)
    # One certain teacher cannot veto a linear pool.
    assert LinearPool((0.5, 0.5))([certain, other]).exp().tolist() == [pytest.approx([0.6, 0.15, 0.25])]


def test_sureness_lies_between_uniform_and_certain() -> None:
    log_NC = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]).log()
    assert sureness(log_NC).tolist() == pytest.approx([0.0, 1.0, 0.5])
