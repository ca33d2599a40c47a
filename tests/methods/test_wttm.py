"""Weighted transformed teacher matching beside a loop in float64, and its weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.losses.logits import kd_divergence
from richkd.methods.wttm import WttmConfig, wttm_loss
from tests.methods.records import random_logits, random_weights
from tests.reference import logit_terms as slow


@budget(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 9), st.floats(0.5, 10), st.integers(0, 99))
def test_it_equals_the_loop(images: int, classes: int, temperature: float, seed: int) -> None:
    student, teacher, _ = random_logits(images, classes, seed)
    weight_B = random_weights(images, seed)
    value = wttm_loss(student, teacher, temperature, weight_B)
    expected = slow.wttm(student, teacher, temperature, weight_B.tolist())
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_temperature_one_is_plain_kd() -> None:
    student, teacher, _ = random_logits(5, 4, 0)
    expected = float(kd_divergence(student, teacher, 1.0))
    assert float(wttm_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-12)


def test_uncertain_images_count_more() -> None:
    # U is 1 for a certain teacher and C^(1 − 1/T) for a uniform one.
    student = torch.tensor([[2.0, 0.0, -1.0, 0.5]]).double()
    certain, uniform = 1e4 * torch.eye(4)[:1].double(), torch.zeros(1, 4).double()
    log_B = student.log_softmax(dim=1)
    assert float(wttm_loss(student, certain, 5.0)) == pytest.approx(-float(log_B[0, 0]), rel=1e-9)
    divergence = -math.log(4) - float(log_B.mean())
    assert float(wttm_loss(student, uniform, 5.0)) == pytest.approx(4**0.8 * divergence, rel=1e-9)


def test_the_softened_target_enters_linearly() -> None:
    # The gradient of the mix of two losses is that of the cross-entropy with the mixed powers.
    student, teacher, _ = random_logits(4, 5, 1)
    other = teacher.flip(0)
    student.requires_grad_()
    mixed = 0.7 * wttm_loss(student, teacher, 3.0) + 0.3 * wttm_loss(student, other, 3.0)
    powers = 0.7 * teacher.softmax(dim=1) ** (1 / 3) + 0.3 * other.softmax(dim=1) ** (1 / 3)
    direct = -(powers * student.log_softmax(dim=1)).sum(dim=1).mean()
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (mixed, direct)]
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_the_defaults_are_the_example_of_the_authors() -> None:
    assert (WttmConfig().weight, WttmConfig().temperature) == (4.0, 5.0)


def test_a_temperature_must_be_positive() -> None:
    student, teacher, _ = random_logits(2, 3, 0)
    with pytest.raises(ConfigError, match="temperature"):
        wttm_loss(student, teacher, 0)
