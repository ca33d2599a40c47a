"""Decoupled distillation beside a loop in float64, its parts beside plain KD, and its settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import kd_divergence
from richkd.methods.dkd import Dkd, DkdConfig, dkd_loss, warmup_factor
from richkd.methods.term import Context, NetworkShapes, Setup


def random_logits(images: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(images, classes, generator=generator).double() for _ in range(2))
    return student, teacher, torch.randint(classes, (images,), generator=generator)


def slow_dkd(
    student: list[list[float]],
    teacher: list[list[float]],
    labels: list[int],
    t: float,
    alpha: float,
    beta: float,
) -> float:
    """Equations 4 to 7 of the paper, one number at a time."""

    def softmax(row: list[float]) -> list[float]:
        top = max(row)
        powers = [math.exp((z - top) / t) for z in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for s_row, t_row, label in zip(student, teacher, labels, strict=True):
        p_s, p_t = softmax(s_row), softmax(t_row)
        rest_s, rest_t = (sum(p for c, p in enumerate(row) if c != label) for row in (p_s, p_t))
        tckd = p_t[label] * math.log(p_t[label] / p_s[label]) + rest_t * math.log(rest_t / rest_s)
        nckd = sum(
            p_t[c] / rest_t * math.log((p_t[c] / rest_t) / (p_s[c] / rest_s))
            for c in range(len(p_s))
            if c != label
        )
        total += t * t * (alpha * tckd + beta * nckd)
    return total / len(labels)


@budget(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(2, 9),
    st.floats(0.5, 8),
    st.floats(0, 3),
    st.floats(0, 9),
    st.integers(0, 99),
)
def test_it_equals_the_loop(
    images: int, classes: int, t: float, alpha: float, beta: float, seed: int
) -> None:
    student, teacher, labels = random_logits(images, classes, seed)
    value = dkd_loss(student, teacher, labels, temperature=t, alpha=alpha, beta=beta)
    expected = slow_dkd(student.tolist(), teacher.tolist(), labels.tolist(), t, alpha, beta)
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_plain_kd_is_the_sum_of_its_parts() -> None:
    # KD = TCKD + (1 − p_y) · NCKD, equation 5, for one image at a time.
    student, teacher, labels = random_logits(6, 5, 1)
    for place in range(6):
        one = slice(place, place + 1)
        others = 1 - float((teacher[one] / 4).softmax(dim=1)[0, labels[place]])
        value = dkd_loss(student[one], teacher[one], labels[one], temperature=4, alpha=1, beta=others)
        assert float(value) == pytest.approx(float(kd_divergence(student[one], teacher[one], 4.0)), rel=1e-9)


def test_an_unlabeled_image_takes_the_teachers_class_and_weights_count() -> None:
    student, teacher, _ = random_logits(4, 5, 2)
    unknown = torch.full((4,), -1)
    assert torch.equal(dkd_loss(student, teacher, unknown), dkd_loss(student, teacher, teacher.argmax(dim=1)))
    weight_B = torch.tensor([1.0, 0.0, 0.5, 0.0]).double()
    each = torch.stack([dkd_loss(student[i : i + 1], teacher[i : i + 1], unknown[:1]) for i in range(4)])
    assert float(dkd_loss(student, teacher, unknown, weight_B=weight_B)) == pytest.approx(
        float((weight_B * each).mean()), rel=1e-12
    )


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher, labels = random_logits(3, 4, 3)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dkd_loss(z, teacher, labels), (student,))
    dkd_loss(student, teacher, labels).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_confident_teachers_give_finite_losses_and_gradients() -> None:
    student = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 300.0, 0.0]])
    value = dkd_loss(student, teacher, torch.tensor([1]))
    value.backward()  # type: ignore[no-untyped-call]
    assert bool(value.isfinite())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_a_temperature_must_be_positive() -> None:
    student, teacher, labels = random_logits(2, 3, 0)
    with pytest.raises(ConfigError, match="temperature"):
        dkd_loss(student, teacher, labels, temperature=0)


def test_the_warm_up_is_a_share_of_the_run() -> None:
    assert [warmup_factor(p, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    student, teacher, labels = random_logits(3, 4, 5)
    setup = Setup(NetworkShapes(2), (NetworkShapes(2),), labels, 4, 0)
    term = Dkd(DkdConfig(warmup=0.5, beta=2.0), setup)
    target = Target(teacher, (Output(teacher, teacher[:, :2]),), (1.0,))
    batch = Batch("train", torch.arange(3), torch.zeros(3, 2, 2, 3, dtype=torch.uint8), labels)
    values = [
        float(term(Output(student, student[:, :2]), target, batch, Context(progress=p)).value)
        for p in (0.25, 0.75)
    ]
    assert values[0] == pytest.approx(values[1] / 2)
    assert values[1] == pytest.approx(float(dkd_loss(student, teacher, labels, beta=2.0)))
