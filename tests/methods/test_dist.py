"""DIST beside a loop in float64 and an independent implementation, and its invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.methods.dist import DistConfig, dist_loss, pearson
from tests.methods.records import random_logits, random_weights
from tests.reference import logit_terms as slow


@budget(max_examples=50, deadline=None)
@given(
    st.integers(3, 6),
    st.integers(3, 9),
    st.floats(1, 8),
    st.floats(0, 3),
    st.floats(0, 3),
    st.integers(0, 99),
)
def test_it_equals_the_loop(
    images: int, classes: int, temperature: float, beta: float, gamma: float, seed: int
) -> None:
    student, teacher, _ = random_logits(images, classes, seed)
    weight_B = random_weights(images, seed)
    value = dist_loss(student, teacher, temperature=temperature, beta=beta, gamma=gamma, weight_B=weight_B)
    expected = slow.dist(student, teacher, temperature, beta, gamma, weight_B.tolist())
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_it_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher, _ = random_logits(6, 5, 0)
    theirs = mid_level.DISTLoss("layer", "output", "layer", "output", beta=2.0, gamma=1.5, tau=4.0)
    io = [{"layer": {"output": logits}} for logits in (student, teacher)]
    value = dist_loss(student, teacher, temperature=4.0, beta=2.0, gamma=1.5)
    assert float(value) == pytest.approx(float(theirs(*io)), rel=1e-9)


def test_only_the_relation_of_probabilities_counts() -> None:
    # A linear function of the teacher's probabilities correlates perfectly with them.
    _, teacher, _ = random_logits(5, 4, 1)
    flatter = (0.3 * teacher.softmax(dim=1) + 0.7 / 4).log()
    assert float(dist_loss(flatter, teacher, temperature=1.0)) == pytest.approx(0, abs=1e-12)
    assert float(dist_loss(teacher.flip(1), teacher, temperature=1.0)) > 0.1


def test_a_single_image_has_no_relation_to_others() -> None:
    student, teacher, _ = random_logits(1, 5, 2)
    inter = float(dist_loss(student, teacher, temperature=2.0, beta=1.0, gamma=0.0))
    # Its correlation over images counts as 0, which costs gamma · T².
    assert float(dist_loss(student, teacher, temperature=2.0, beta=1.0, gamma=3.0)) == pytest.approx(
        inter + 12, rel=1e-9
    )


def test_a_correlation_is_between_minus_one_and_one() -> None:
    rows, equal = torch.tensor([[1.0, 2.0, 4.0]]).double(), torch.ones(3).double()
    assert float(pearson(rows, -rows, equal)) == pytest.approx(-1)
    assert float(pearson(rows, rows, equal)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -4.6])
@pytest.mark.parametrize("classes", [3, 10, 100, 1000])
def test_constant_logits_have_a_gradient_of_usual_size(
    dtype: torch.dtype, value: float, classes: int
) -> None:
    # Heads of MLP-Mixer, ResMLP and gMLP start with zeros.
    teacher = 3 * torch.randn(16, classes, generator=torch.Generator().manual_seed(0), dtype=dtype)
    student = torch.full((16, classes), value, dtype=dtype, requires_grad=True)
    loss = dist_loss(student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(4.0**2 * (2 + 2), rel=1e-5)
    assert student.grad is not None
    assert 0 < float(student.grad.norm()) < 10
    # A step against the gradient brings the student nearer to the teacher.
    moved = student.detach() - 0.1 * student.grad
    assert float(dist_loss(moved, teacher)) < float(loss.detach()) - 1


def test_a_row_that_varies_by_rounding_counts_as_constant() -> None:
    rows = torch.tensor([[1.0, 1.0, 1.0 + 2**-23]])
    assert abs(float(pearson(rows, torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(3)))) < 1e-6
    less = torch.tensor([[1.0, 1.0, 1.001]])
    assert float(pearson(less, less, torch.ones(3))) == pytest.approx(1)


def test_the_defaults_are_those_of_the_paper() -> None:
    config = DistConfig()
    assert (config.weight, config.temperature, config.beta, config.gamma) == (1.0, 4.0, 2.0, 2.0)


def test_a_temperature_must_be_positive() -> None:
    student, teacher, _ = random_logits(2, 3, 0)
    with pytest.raises(ConfigError, match="temperature"):
        dist_loss(student, teacher, temperature=0)
