"""Cross-entropy and divergence against loops, closed forms and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.core.numerics import kl_nats
from richkd.core.types import UNLABELED
from richkd.losses.logits import cross_entropy, kd_divergence, of_other_classes
from tests.reference import losses as slow

shapes = st.tuples(st.integers(1, 6), st.integers(2, 12))
temperatures = st.floats(0.1, 20)
seeds = st.integers(0, 10_000)


def random_logits(shape: tuple[int, int], seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_labels(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randint(shape[1], shape[:1], generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(shapes, st.floats(0, 1), seeds)
def test_cross_entropy_equals_the_loop(shape: tuple[int, int], smoothing: float, seed: int) -> None:
    logits_BC, labels_B = random_logits(shape, seed), random_labels(shape, seed)
    fast = cross_entropy(logits_BC, labels_B, label_smoothing=smoothing)
    assert fast.item() == pytest.approx(slow.cross_entropy(logits_BC, labels_B, smoothing), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(shapes, temperatures, seeds)
def test_divergences_equal_the_loops(shape: tuple[int, int], temperature: float, seed: int) -> None:
    student_BC, teacher_BC = random_logits(shape, seed), random_logits(shape, seed + 1)
    fast = kd_divergence(student_BC, teacher_BC, temperature).item()
    assert fast == pytest.approx(slow.kd_divergence(student_BC, teacher_BC, temperature), rel=1e-9)
    expected_B = slow.kl_nats(student_BC, teacher_BC)
    assert kl_nats(student_BC, teacher_BC).tolist() == pytest.approx(expected_B, rel=1e-9, abs=1e-14)


@settings(max_examples=25, deadline=None)
@given(shapes, seeds, st.data())
def test_images_without_a_label_add_nothing_and_count_in_the_mean(
    shape: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    logits_BC, labels_B = random_logits(shape, seed), random_labels(shape, seed)
    known = data.draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0]))
    labels_B[~torch.tensor(known)] = UNLABELED
    images = zip(logits_BC[:, None], labels_B[:, None], strict=True)
    each = [cross_entropy(z_1C, y_1).item() for z_1C, y_1 in images]
    assert all(value == 0 for value, k in zip(each, known, strict=True) if not k)
    assert cross_entropy(logits_BC, labels_B).item() == pytest.approx(sum(each) / shape[0], rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(shapes, temperatures, seeds)
def test_weights_say_how_far_each_image_is_believed(
    shape: tuple[int, int], temperature: float, seed: int
) -> None:
    student_BC, teacher_BC = random_logits(shape, seed), random_logits(shape, seed + 1)
    weight_B = torch.rand(shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    each = [
        float(w) * slow.kd_divergence(s_1C, t_1C, temperature)
        for w, s_1C, t_1C in zip(weight_B, student_BC[:, None], teacher_BC[:, None], strict=True)
    ]
    result = kd_divergence(student_BC, teacher_BC, temperature, weight_B).item()
    assert result == pytest.approx(sum(each) / shape[0], rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(shapes, temperatures, seeds)
def test_divergence_is_zero_for_shifted_logits_and_positive_otherwise(
    shape: tuple[int, int], temperature: float, seed: int
) -> None:
    teacher_BC = random_logits(shape, seed)
    assert abs(kd_divergence(teacher_BC + 5, teacher_BC, temperature).item()) < 1e-11
    assert kd_divergence(teacher_BC.flip(1) * 0.5, teacher_BC, temperature).item() > 0


def test_closed_forms() -> None:
    labels_B = torch.tensor([0, 2])
    assert cross_entropy(torch.zeros(2, 4), labels_B).item() == pytest.approx(math.log(4))
    # p = (3/4, 1/4) against q = (1/2, 1/2): ln 2 minus the entropy of p.
    p_BC, q_BC = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64), torch.zeros(1, 2).double()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_nats(p_BC, q_BC).item() == pytest.approx(expected, rel=1e-12)
    assert kd_divergence(2 * q_BC, 2 * p_BC, 2.0).item() == pytest.approx(4 * expected, rel=1e-12)


def test_at_high_temperature_the_gradient_is_that_of_matched_logits() -> None:
    # Hinton et al. 2015, section 2.1: T²·∂KL/∂z → (z − v)/C for centered logits, so the factor T² is right.
    student_BC, teacher_BC = (random_logits((1, 5), seed, 1.0) for seed in (1, 2))
    student_BC, teacher_BC = (x - x.mean() for x in (student_BC, teacher_BC))
    student_BC.requires_grad_()
    (gradient_BC,) = torch.autograd.grad(kd_divergence(student_BC, teacher_BC, 1e4), student_BC)
    torch.testing.assert_close(gradient_BC, (student_BC - teacher_BC).detach() / 5, rtol=1e-3, atol=1e-4)


def test_gradients() -> None:
    logits_BC, labels_B = random_logits((3, 5), 0).requires_grad_(), random_labels((3, 5), 0)
    other_BC = random_logits((3, 5), 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels_B, label_smoothing=0.1), logits_BC)
    assert torch.autograd.gradcheck(lambda z: kd_divergence(z, other_BC.detach(), 3.0), logits_BC)
    assert torch.autograd.gradcheck(kl_nats, (logits_BC, other_BC))


def test_the_teacher_receives_no_gradient() -> None:
    student_BC, teacher_BC = (random_logits((2, 3), seed).requires_grad_() for seed in (0, 1))
    kd_divergence(student_BC, teacher_BC, 3.0).backward()
    assert teacher_BC.grad is None
    assert student_BC.grad is not None
    assert student_BC.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_precision_is_float32_or_higher(dtype: torch.dtype) -> None:
    student_BC, teacher_BC = (random_logits((4, 50), seed, 8.0).to(dtype) for seed in (0, 1))
    labels_B = random_labels((4, 50), 0)
    higher = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        entropy, divergence = (
            cross_entropy(student_BC, labels_B),
            kd_divergence(student_BC, teacher_BC, 3.0),
        )
    assert entropy.dtype == divergence.dtype == higher
    assert entropy.item() == pytest.approx(slow.cross_entropy(student_BC, labels_B), rel=2e-6)
    assert divergence.item() == pytest.approx(slow.kd_divergence(student_BC, teacher_BC, 3.0), rel=2e-6)
    assert kl_nats(student_BC, teacher_BC).dtype == torch.float64


def test_tiny_divergences_of_float32_logits_are_exact() -> None:
    # Logits scaled by 1 + 1e-4 diverge by about 1e-8 nats, below what float32 resolves.
    p_BC = random_logits((4, 50), 0).float()
    q_BC = p_BC * (1 + 1e-4)
    assert kl_nats(p_BC, q_BC).tolist() == pytest.approx(slow.kl_nats(p_BC, q_BC), rel=1e-6)


def test_huge_logits_stay_finite() -> None:
    logits_BC = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = kd_divergence(logits_BC, logits_BC.detach().flip(1), 3.0) + cross_entropy(
        logits_BC, torch.tensor([2])
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits_BC.grad).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature(.|\n)*Got: (0|-1|nan|inf)(.|\n)*Fix:"):
        kd_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature)


@settings(max_examples=25, deadline=None)
@given(shapes, seeds)
def test_other_classes_are_all_but_one_in_their_order(shape: tuple[int, int], seed: int) -> None:
    values_BC, class_B = random_logits(shape, seed), random_labels(shape, seed)
    expected = [
        [value for c, value in enumerate(row) if c != label]
        for row, label in zip(values_BC.tolist(), class_B.tolist(), strict=True)
    ]
    assert of_other_classes(values_BC, class_B).tolist() == expected
