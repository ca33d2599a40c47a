"""Weights that fall to zero: their values, and that the objective uses them for every term."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.types import Batch, Output
from richkd.methods.annealing import Annealing, annealed
from richkd.methods.objective import Objective, read_objective
from richkd.methods.term import Context, NetworkShapes
from tests.fixtures import refusal

LABELS_B = torch.tensor([1, 0, 2])


def loss_of(annealing: str, progress: float) -> float:
    settings = {
        "data": {"path": "."},
        "student": {"name": "resnet18"},
        "objective": [{"ce": {"weight": 2, "annealing": annealing}}],
    }
    specs = read_objective(Config.model_validate(settings))
    objective = Objective(specs, NetworkShapes(features=8), {}, LABELS_B, classes=3, seed=0)
    student = Output(torch.eye(3), torch.zeros(3, 8))
    batch = Batch("train", torch.arange(3), torch.zeros(3, 4, 4, 3), LABELS_B)
    return float(objective(student, {}, batch, Context(progress=progress)).terms["ce"])


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_a_weight_falls_from_its_value_to_zero(a: float, b: float, annealing: Annealing) -> None:
    early, late = sorted((a, b))
    assert annealed(3, annealing, 0) == 3
    assert annealed(3, annealing, 1) == pytest.approx(0, abs=1e-12)
    assert annealed(3, annealing, late) <= annealed(3, annealing, early)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.9])
def test_the_objective_multiplies_by_the_current_weight(progress: float) -> None:
    whole = loss_of("none", progress)
    assert loss_of("none", 0.0) == whole
    assert loss_of("linear", progress) == pytest.approx(whole * (1 - progress))
    assert loss_of("cosine", progress) == pytest.approx(whole * math.cos(math.pi * progress / 2) ** 2)


def test_other_words_are_refused() -> None:
    error = refusal(loss_of, "exponential", 0.5)
    assert isinstance(error, ConfigError)
    assert "annealing" in str(error)
