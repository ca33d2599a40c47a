"""The mean of several teachers beside a loop, and its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.losses.logits import kd_divergence
from richkd.methods.aver import averaged_divergence, mean_of_softened
from tests.methods.several import loss_of, random_logits
from tests.reference import several_teachers as reference


@budget(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(1, 4),
    st.sampled_from([0.5, 1, 4, 8]),
    st.integers(0, 99),
)
def test_it_equals_the_loop(images: int, classes: int, count: int, t: float, seed: int) -> None:
    student, teachers, labels = random_logits(images, classes, count, seed)
    expected = reference.aver(student, teachers, t)
    value = loss_of("aver", student, teachers, labels, temperature=t)
    assert float(value) == pytest.approx(sum(expected) / images, rel=1e-9, abs=1e-12)
    weight_B = torch.linspace(0, 1, images, dtype=torch.float64)
    value = loss_of("aver", student, teachers, labels, weight_B, temperature=t)
    weighted = sum(float(w) * loss for w, loss in zip(weight_B, expected, strict=True))
    assert float(value) == pytest.approx(weighted / images, rel=1e-9, abs=1e-12)


def test_the_published_temperature_is_the_default() -> None:
    student, teachers, labels = random_logits(3, 5, 3, 0)
    expected = float(averaged_divergence(student, teachers, 4.0))
    assert float(loss_of("aver", student, teachers, labels)) == pytest.approx(expected, rel=1e-12)


def test_one_teacher_is_plain_distillation() -> None:
    student, (teacher,), labels = random_logits(4, 6, 1, 1)
    expected = float(kd_divergence(student, teacher, 4.0))
    assert float(loss_of("aver", student, [teacher], labels)) == pytest.approx(expected, rel=1e-12)


def test_probabilities_are_averaged_and_not_logits() -> None:
    # At temperature 1 the logits 4 and -4 average to a tie in both ways, but 9 and -4 do not.
    teachers = [torch.tensor([[9.0, 0.0]]), torch.tensor([[-4.0, 0.0]])]
    first = (teachers[0].softmax(1) + teachers[1].softmax(1)) / 2
    assert torch.allclose(mean_of_softened(teachers, 1.0).exp(), first)
    assert not torch.allclose(((teachers[0] + teachers[1]) / 2).softmax(1), first, atol=0.1)


def test_its_gradient_is_the_mean_of_those_from_each_teacher() -> None:
    student, teachers, _ = random_logits(3, 4, 3, 2)
    student.requires_grad_()
    teachers = [teacher.requires_grad_() for teacher in teachers]
    assert torch.autograd.gradcheck(lambda z: averaged_divergence(z, teachers), (student,))
    (gradient,) = torch.autograd.grad(averaged_divergence(student, teachers), student)
    each = torch.stack([kd_divergence(student, teacher, 4.0) for teacher in teachers]).mean()
    (other,) = torch.autograd.grad(each, student)
    assert torch.allclose(gradient, other, rtol=1e-9)
    averaged_divergence(student, teachers).backward()  # type: ignore[no-untyped-call]
    assert all(teacher.grad is None for teacher in teachers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_confident_teachers_give_finite_float32_losses(dtype: torch.dtype) -> None:
    student = torch.tensor([[200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    teachers = [torch.tensor([[-300.0, 300.0, 0.0]]), torch.tensor([[300.0, -300.0, 0.0]])]
    value = averaged_divergence(student, teachers, 1.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.dtype == torch.float32
    assert bool(value.isfinite())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_a_temperature_must_be_positive() -> None:
    student, teachers, _ = random_logits(2, 3, 2, 0)
    with pytest.raises(ConfigError, match="temperature"):
        averaged_divergence(student, teachers, 0.0)
