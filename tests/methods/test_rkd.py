"""Relational distillation beside a loop and an independent implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.methods.rkd import rkd_loss
from tests.methods.feature_records import randn
from tests.reference import feature_losses as slow


@budget(max_examples=30, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0, 30),
    st.floats(0.1, 60),
    st.integers(0, 99),
)
def test_it_equals_the_loop(
    images: int, width: int, other_width: int, distance: float, angle: float, seed: int
) -> None:
    # One image that is far away makes differences beyond the square part of the Huber loss.
    student, teacher = 9 ** randn(images, width, seed=seed), randn(images, other_width, seed=seed + 1)
    expected = slow.rkd(student, teacher, distance, angle)
    value = rkd_loss(student, teacher, distance=distance, angle=angle)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)])
def test_it_equals_an_independent_implementation(distance: float, angle: float) -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = randn(5, 3, seed=0), randn(5, 7, seed=1)
    theirs = mid_level.RKDLoss("layer", "layer", distance, angle, "mean")
    expected = theirs({"layer": {"output": student}}, {"layer": {"output": teacher}})
    value = rkd_loss(student, teacher, distance=distance, angle=angle)
    assert value.item() == pytest.approx(float(expected), rel=1e-9)


def test_scale_shift_and_rotation_do_not_matter() -> None:
    teacher = randn(5, 3, seed=0)
    rotation, _ = torch.linalg.qr(randn(3, 3, seed=1))
    assert float(rkd_loss(4 * teacher @ rotation + 7, teacher)) == pytest.approx(0, abs=1e-24)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = randn(4, 3, seed=0).requires_grad_(), randn(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rkd_loss(x, teacher), (student,))
    rkd_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize("student", [torch.zeros(3, 2), torch.tensor([[1.0, 2.0]] * 2 + [[0.0, 1.0]])])
def test_equal_features_have_finite_losses_and_gradients(student: torch.Tensor) -> None:
    student = student.clone().requires_grad_()
    for teacher in (randn(3, 4, seed=0).float(), torch.ones(3, 4)):
        value = rkd_loss(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        assert bool(value.isfinite())
        assert bool(gradient.isfinite().all())
