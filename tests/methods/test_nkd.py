"""Normalized distillation beside a loop in float64, and its parts beside cross-entropies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.methods.nkd import NkdConfig, nkd_loss
from tests.methods.records import random_logits, random_weights
from tests.reference import logit_terms as slow


@budget(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(2, 9),
    st.floats(0.5, 8),
    st.floats(0, 9),
    st.integers(0, 99),
    st.booleans(),
)
def test_it_equals_the_loop(
    images: int, classes: int, temperature: float, gamma: float, seed: int, unlabeled: bool
) -> None:
    student, teacher, labels = random_logits(images, classes, seed)
    if unlabeled:
        labels[0] = -1
    weight_B = random_weights(images, seed)
    value = nkd_loss(student, teacher, labels, temperature=temperature, gamma=gamma, weight_B=weight_B)
    expected = slow.nkd(student, teacher, labels.tolist(), temperature, gamma, weight_B.tolist())
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_certain_teacher_gives_cross_entropy_with_the_labels() -> None:
    student, _, labels = random_logits(6, 5, 0)
    certain = 1000 * torch.nn.functional.one_hot(labels, 5).double()
    value = nkd_loss(student, certain, labels, gamma=0.0)
    assert float(value) == pytest.approx(float(torch.nn.functional.cross_entropy(student, labels)), rel=1e-12)


def test_the_other_classes_are_normalized() -> None:
    # Their part does not depend on the logit of the image's class, of neither network.
    student, teacher, labels = random_logits(4, 5, 1)
    onehot_BC = torch.nn.functional.one_hot(labels, 5).double()

    def others(student: torch.Tensor, teacher: torch.Tensor) -> float:
        with_others = nkd_loss(student, teacher, labels, temperature=2.0, gamma=1.0)
        return float(with_others - nkd_loss(student, teacher, labels, temperature=2.0, gamma=0.0))

    assert others(student + 7 * onehot_BC, teacher - 3 * onehot_BC) == pytest.approx(others(student, teacher))


def test_the_defaults_are_those_of_the_authors() -> None:
    config = NkdConfig()
    assert (config.weight, config.temperature, config.gamma, config.standardize) == (1.0, 1.0, 1.5, False)


def test_a_temperature_must_be_positive() -> None:
    student, teacher, labels = random_logits(2, 3, 0)
    with pytest.raises(ConfigError, match="temperature"):
        nkd_loss(student, teacher, labels, temperature=0)
