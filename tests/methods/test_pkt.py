"""Probabilistic knowledge transfer beside a loop and an independent implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.methods.pkt import pkt_loss
from tests.methods.feature_records import randn
from tests.reference import feature_losses as slow


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_it_equals_the_loop(images: int, width: int, other_width: int, seed: int) -> None:
    student, teacher = randn(images, width, seed=seed), randn(images, other_width, seed=seed + 1)
    expected = slow.pkt(student, teacher)
    assert float(pkt_loss(student, teacher)) == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_it_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    # Their constant of 1e-7 is also added to the lengths of features, so these are long.
    student, teacher = 1e6 * randn(5, 3, seed=0), 1e6 * randn(5, 7, seed=1)
    theirs = mid_level.PKTLoss("fc", "input", "fc", "input")
    expected = theirs({"fc": {"input": student}}, {"fc": {"input": teacher}})
    assert float(pkt_loss(student, teacher)) == pytest.approx(float(expected), rel=1e-9)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = randn(4, 3, seed=0).requires_grad_(), randn(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pkt_loss(x, teacher), (student,))
    pkt_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize("student", [torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])])
def test_features_without_direction_or_opposite_have_finite_losses(student: torch.Tensor) -> None:
    student = student.clone().requires_grad_()
    value = pkt_loss(student, randn(3, 4, seed=0).float())
    (gradient,) = torch.autograd.grad(value, student)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
