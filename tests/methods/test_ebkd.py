"""Weights by entropy beside a loop, and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.losses.logits import kd_divergence
from richkd.methods.ebkd import entropy_weights
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
    expected = reference.weighted(student, teachers, reference.ebkd_weights(teachers), t)
    value = loss_of("ebkd", student, teachers, labels, temperature=t)
    assert float(value) == pytest.approx(sum(expected) / images, rel=1e-9, abs=1e-12)
    weight_B = torch.linspace(0, 1, images, dtype=torch.float64)
    value = loss_of("ebkd", student, teachers, labels, weight_B, temperature=t)
    weighted = sum(float(w) * loss for w, loss in zip(weight_B, expected, strict=True))
    assert float(value) == pytest.approx(weighted / images, rel=1e-9, abs=1e-12)


@budget(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.floats(0, 200), st.integers(0, 99))
def test_weights_are_shares_for_any_confidence(count: int, factor: float, seed: int) -> None:
    _, teachers, _ = random_logits(6, 5, count, seed)
    weights_MB = entropy_weights([(factor * teacher).float() for teacher in teachers])
    assert bool((weights_MB >= 0).all())
    assert torch.allclose(weights_MB.sum(dim=0), torch.ones(6), atol=1e-5)


def test_the_more_certain_teacher_counts_more_and_certain_ones_equally() -> None:
    sure, unsure = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    first, second = entropy_weights([sure, unsure])[:, 0].tolist()
    assert first > 0.8 > 0.2 > second
    certain = torch.tensor([[900.0, 0.0, 0.0]])
    assert entropy_weights([certain, certain.flip(1)])[:, 0].tolist() == [0.5, 0.5]


def test_labels_do_not_matter() -> None:
    student, teachers, labels = random_logits(4, 6, 3, 0)
    unknown = torch.full_like(labels, -1)
    assert torch.equal(
        loss_of("ebkd", student, teachers, labels), loss_of("ebkd", student, teachers, unknown)
    )


def test_one_teacher_is_plain_distillation() -> None:
    student, (teacher,), labels = random_logits(4, 6, 1, 1)
    expected = float(kd_divergence(student, teacher, 4.0))
    assert float(loss_of("ebkd", student, [teacher], labels)) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teachers, labels = random_logits(3, 4, 2, 3)
    student.requires_grad_()
    teachers = [teacher.requires_grad_() for teacher in teachers]
    assert torch.autograd.gradcheck(lambda z: loss_of("ebkd", z, teachers, labels), (student,))
    loss_of("ebkd", student, teachers, labels).backward()  # type: ignore[no-untyped-call]
    assert all(teacher.grad is None for teacher in teachers)
