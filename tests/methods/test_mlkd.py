"""Multi-level distillation beside a loop in float64, its levels, and its settings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.config.loading import load_config
from richkd.losses.logits import kd_divergence
from richkd.methods.mlkd import MlkdConfig, mlkd_loss
from richkd.methods.objective import logit_temperature, read_objective
from tests.fixtures import refusal
from tests.methods.records import random_logits, random_weights
from tests.reference import logit_terms as slow

SETTINGS = {"data.path": "photos", "student.name": "resnet18", "method.name": "mlkd"}


@budget(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(2, 7),
    st.lists(st.floats(0.5, 8), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_it_equals_the_loop(images: int, classes: int, temperatures: list[float], seed: int) -> None:
    student, teacher, _ = random_logits(images, classes, seed)
    weight_B = random_weights(images, seed)
    value = mlkd_loss(student, teacher, temperatures, weight_B)
    expected = slow.mlkd(student, teacher, temperatures, weight_B.tolist())
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_levels_add_to_kd() -> None:
    student, teacher, _ = random_logits(5, 4, 0)
    # One image whose probabilities are swapped: as similar to itself, but other classes occur together.
    one, swapped = student[:1], student[:1].flip(1)
    matrices = [p.T @ p for p in (one.softmax(dim=1), swapped.softmax(dim=1))]
    expected = float(kd_divergence(one, swapped, 1.0) + (matrices[0] - matrices[1]).square().sum() / 4)
    assert float(mlkd_loss(one, swapped, [1.0])) == pytest.approx(expected, rel=1e-9)
    # The loss of several temperatures is the sum of their losses.
    each = [float(mlkd_loss(student, teacher, [temperature])) for temperature in (2.0, 5.0)]
    assert float(mlkd_loss(student, teacher, [2.0, 5.0])) == pytest.approx(sum(each), rel=1e-12)


def test_the_defaults_are_those_of_the_authors() -> None:
    config = MlkdConfig()
    assert (config.weight, config.temperatures) == (0.9, (2.0, 3.0, 4.0, 5.0, 6.0))
    assert logit_temperature(read_objective(load_config(None, SETTINGS))) == 4.0


@pytest.mark.parametrize("value", ["[]", "[2, 0]", "[-1]", "2", "[a]"])
def test_bad_temperatures_are_refused_by_name(value: str) -> None:
    config = load_config(None, SETTINGS | {"objective.mlkd.temperatures": value})
    assert "objective.mlkd.temperatures" in refusal(read_objective, config).rule
    good = load_config(None, SETTINGS | {"objective.mlkd.temperatures": "[1, 4.5]"})
    assert read_objective(good)[1].config.temperatures == (1.0, 4.5)  # type: ignore[attr-defined]
    assert torch.isfinite(torch.tensor(logit_temperature(read_objective(good))))
