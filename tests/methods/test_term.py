"""Settings that terms share: limits of temperatures, and which settings follow the progress of a run."""

from __future__ import annotations

import inspect

import pytest
import torch
from pydantic import ValidationError

from richkd.config.choices import TERMS
from richkd.losses.contrast import bank_log_scores
from richkd.losses.logits import kd_divergence
from richkd.methods.term import MAX_TEMPERATURE, MIN_TEMPERATURE, TermConfig

NAMES = sorted(TERMS)
TEMPERATURES = [
    (name, setting)
    for name in NAMES
    for setting in ("temperature", "temperatures", "min_temperature")
    if setting in TERMS[name].Config.model_fields
]


def test_many_terms_have_a_temperature() -> None:
    assert {"aver", "ebkd", "ca-mkd", "contrastive", "crd", "kd"} < {name for name, _ in TEMPERATURES}


@pytest.mark.parametrize(("name", "setting"), TEMPERATURES)
def test_every_temperature_has_the_same_limits(name: str, setting: str) -> None:
    def config(value: float) -> TermConfig:
        return TERMS[name].Config.model_validate({setting: (value,) if setting[-1] == "s" else value})

    for value in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        config(value)
    for value in (1e-45, MIN_TEMPERATURE / 2, 2 * MAX_TEMPERATURE, 1e25):
        with pytest.raises(ValidationError, match="temperature"):
            config(value)


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, MAX_TEMPERATURE])
def test_losses_are_finite_at_the_limits(temperature: float) -> None:
    torch.manual_seed(0)
    student_BC, teacher_BC = (10 * torch.randn(2, 4, 5)).requires_grad_()
    loss = kd_divergence(student_BC, teacher_BC, temperature)
    rows_BK = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
    scores_BK = bank_log_scores(student_BC, teacher_BC, rows_BK, temperature)
    assert bool(loss.isfinite())
    assert bool(scores_BK.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_term_that_reads_the_progress_names_the_settings(name: str) -> None:
    term = TERMS[name]
    assert ("context.progress" in inspect.getsource(term)) == bool(term.Config.of_progress)
    assert set(term.Config.of_progress) <= set(term.Config.model_fields)
    without = dict.fromkeys(term.Config.of_progress, 0)
    assert term.Config.model_validate(without).follows_progress == ()
    assert term.Config.model_validate(without | {"annealing": "cosine"}).follows_progress == ("annealing",)
