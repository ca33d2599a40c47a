"""Fidelity: agreement, divergence and CKA against loops and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import DataError
from richkd.core.types import Output
from richkd.metrics.fidelity import cka, hsic, measure_fidelity
from tests.fixtures import refusal


def random_features(images: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(images, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 7), st.integers(0, 99))
def test_hsic_is_its_sum_over_four_images(images: int, seed: int) -> None:
    a, b = random_features(images, 3, seed), random_features(images, 2, seed + 1)
    a_NN, b_NN = (x @ x.T for x in (a, b))
    for gram in (a_NN, b_NN):
        gram.fill_diagonal_(0)
    # The U-statistic of order four of Song et al. 2012, over all ordered quadruples of different images.
    terms = [
        float(a_NN[i, j] * (b_NN[i, j] + b_NN[q, r] - 2 * b_NN[i, q]))
        for i, j, q, r in itertools.permutations(range(images), 4)
    ]
    assert hsic(a_NN, b_NN) == pytest.approx(sum(terms) / len(terms), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(0.1, 50), st.floats(-5, 5))
def test_rotation_scale_and_offset_change_nothing(seed: int, scale: float, offset: float) -> None:
    feats = random_features(30, 6, seed)
    rotation, _ = torch.linalg.qr(random_features(6, 6, seed + 1))
    assert cka(feats, scale * feats @ rotation + offset) == pytest.approx(1, abs=1e-9)


def test_unrelated_features_have_nothing_in_common_even_where_images_are_few() -> None:
    values = [cka(random_features(40, 200, seed), random_features(40, 200, seed + 500)) for seed in range(60)]
    assert abs(sum(values) / len(values)) < 0.02
    assert cka(torch.ones(10, 3), random_features(10, 3, 0)) == 0.0


def test_a_student_that_is_its_teacher_and_one_that_is_not() -> None:
    logits, feats = random_features(50, 4, 0), random_features(50, 5, 1)
    same = measure_fidelity("itself", Output(logits, feats), Output(logits + 3, feats))
    assert (same.agreement, same.name) == (1.0, "itself")
    assert same.kl == pytest.approx(0, abs=1e-12)
    assert same.cka == pytest.approx(1)
    teacher = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64).log()
    student = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64).log()
    result = measure_fidelity("teacher", Output(student, student[:, :0]), Output(teacher, teacher[:, :0]))
    # 0.75 ln 1.5 + 0.25 ln 0.5, and 0.5 ln 2 + 0.5 ln (2/3).
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + 0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert result.kl == pytest.approx(expected)
    assert result.cka is None
    few = measure_fidelity("few images", Output(student, feats[:2]), Output(teacher, feats[:2]))
    assert few.cka is None


def test_other_images_are_refused() -> None:
    for a, b in ((5, 6), (3, 3)):
        assert isinstance(refusal(cka, torch.ones(a, 2), torch.ones(b, 2)), DataError)


def test_features_are_compared_on_images_of_all_classes() -> None:
    random = torch.Generator().manual_seed(0)
    feats_NF = torch.randn(4000, 8, generator=random)
    other_NF = torch.randn(4000, 8, generator=random)
    # Sorted by class: both agree on the later half of the images only.
    mixed_NF = torch.where(torch.arange(4000)[:, None] < 2000, other_NF, feats_NF)
    order_N = torch.randperm(4000, generator=random)
    logits_NC = torch.zeros(4000, 2)
    sorted_, shuffled = (
        measure_fidelity("t", Output(logits_NC, mixed_NF[i]), Output(logits_NC, feats_NF[i])).cka
        for i in (torch.arange(4000), order_N)
    )
    assert sorted_ == pytest.approx(shuffled, abs=0.05)
    assert sorted_ == pytest.approx(cka(mixed_NF, feats_NF), abs=0.05)
